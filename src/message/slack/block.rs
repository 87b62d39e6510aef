//! The part of Slack's Block Kit that the messages use.

use serde::Serialize;

use crate::message::slack::text;

/// How long the text may be that is sent without blocks, in UTF-16 code units.
const MAX_PLAIN: usize = 1_900;

/// A message as Slack's incoming webhooks and `chat.postMessage` take it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// The whole message in sentences: the notification, and the only part that a screen reader reads.
    pub(crate) text: String,
    pub(crate) blocks: Vec<Block>,
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) unfurl_links: bool,
    pub(crate) unfurl_media: bool,
}

impl Message {
    /// Creates a message: a headline, and below it the details beside a bar of `color`.
    pub(crate) fn new(
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

    /// Says that the message is sent again because somebody asked for it.
    pub(crate) fn say_sent_again(&mut self) {
        const AGAIN: &str = "Sent again on request";
        self.text = format!("{AGAIN}: {}", self.text);
        for attachment in &mut self.attachments {
            attachment.fallback.clone_from(&self.text);
            attachment.blocks.push(Block::context(AGAIN.to_owned()));
        }
    }

    /// The body of the request: the same bytes each time.
    pub fn to_body(&self) -> Vec<u8> {
        json(self)
    }
}

/// The body to send when the receiver refuses the blocks: the same message as text alone. It is cut, because servers that
/// imitate Slack's webhooks take less than Slack does: Discord at most 2,000 characters.
pub fn plain(message: &Message) -> Vec<u8> {
    #[derive(Serialize)]
    struct Plain<'a> {
        text: &'a str,
    }
    json(&Plain {
        text: &text::shorten(&message.text, MAX_PLAIN),
    })
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("strings, lists and booleans are always JSON")
}

/// The blocks that Slack shows beside a coloured bar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Attachment {
    pub(crate) color: &'static str,
    /// For clients without blocks.
    pub(crate) fallback: String,
    pub(crate) blocks: Vec<Block>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Block {
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
}

impl Block {
    pub(crate) fn header(text: String) -> Self {
        let text = Text::PlainText { text, emoji: false };
        Self::Header { text }
    }

    pub(crate) fn section(text: String) -> Self {
        Self::Section {
            text: Some(Text::marked(text)),
            fields: Vec::new(),
        }
    }

    pub(crate) fn fields(fields: Vec<String>) -> Self {
        Self::Section {
            text: None,
            fields: fields.into_iter().map(Text::marked).collect(),
        }
    }

    pub(crate) fn context(text: String) -> Self {
        Self::Context {
            elements: vec![Text::marked(text)],
        }
    }

    /// A link on a line of its own. No button: Slack reports a click on one to the app, and shows a warning if the app
    /// has no address for that, as an incoming webhook has none.
    pub(crate) fn link(label: &str, url: &str) -> Self {
        Self::section(format!("<{url}|{label}>"))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Text {
    Mrkdwn {
        text: String,
        /// Always true: otherwise Slack turns whatever looks like a channel, a mention or a URL into a link.
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
