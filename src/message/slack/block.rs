//! The part of Block Kit that the messages are made of.

use serde::Serialize;

/// A message as Slack's incoming webhooks and `chat.postMessage` take it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// The whole message as sentences: the notification, and all that a screen reader reads.
    pub(super) text: String,
    pub(super) blocks: Vec<Block>,
    pub(super) attachments: Vec<Attachment>,
    pub(super) unfurl_links: bool,
    pub(super) unfurl_media: bool,
}

impl Message {
    /// A headline, and below it, beside a bar of `color`, what there is to know.
    pub(super) fn new(
        text: String,
        headline: Block,
        color: &'static str,
        below: Vec<Block>,
    ) -> Self {
        Self {
            blocks: vec![headline],
            attachments: vec![Attachment {
                color,
                fallback: text.clone(),
                blocks: below,
            }],
            text,
            unfurl_links: false,
            unfurl_media: false,
        }
    }

    /// The body of the request: the same bytes each time.
    pub fn to_body(&self) -> Vec<u8> {
        json(self)
    }
}

/// The body that is left when Slack refuses the blocks: the same message as text alone.
pub fn plain(message: &Message) -> Vec<u8> {
    #[derive(Serialize)]
    struct Plain<'a> {
        text: &'a str,
    }
    json(&Plain {
        text: &message.text,
    })
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("strings, lists and booleans are always JSON")
}

/// What Slack draws beside a coloured bar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Attachment {
    pub(super) color: &'static str,
    /// For clients without blocks.
    pub(super) fallback: String,
    pub(super) blocks: Vec<Block>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Block {
    Header {
        text: Text,
    },
    Section {
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<Text>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        fields: Vec<Text>,
    },
    Context {
        elements: Vec<Text>,
    },
    Actions {
        elements: Vec<Button>,
    },
}

impl Block {
    pub(super) fn header(text: String) -> Self {
        let text = Text::PlainText { text, emoji: false };
        Self::Header { text }
    }

    pub(super) fn section(text: String) -> Self {
        Self::Section {
            text: Some(Text::marked(text)),
            fields: Vec::new(),
        }
    }

    pub(super) fn fields(fields: Vec<String>) -> Self {
        Self::Section {
            text: None,
            fields: fields.into_iter().map(Text::marked).collect(),
        }
    }

    pub(super) fn context(text: String) -> Self {
        Self::Context {
            elements: vec![Text::marked(text)],
        }
    }

    pub(super) fn button(label: &str, url: String, action_id: &'static str) -> Self {
        let text = Text::PlainText {
            text: label.to_owned(),
            emoji: false,
        };
        Self::Actions {
            elements: vec![Button::Button {
                text,
                url,
                action_id,
            }],
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Text {
    Mrkdwn {
        text: String,
        /// Else Slack would make links of what looks like a channel, a mention or a URL.
        verbatim: bool,
    },
    PlainText {
        text: String,
        /// Whether `:name:` becomes an emoji.
        emoji: bool,
    },
}

impl Text {
    fn marked(text: String) -> Self {
        Self::Mrkdwn {
            text,
            verbatim: true,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Button {
    Button {
        text: Text,
        url: String,
        action_id: &'static str,
    },
}
