//! Makes foreign strings harmless, and cuts them to Slack's limits.
//!
//! Slack does not say how it counts characters. So lengths are in the largest unit: UTF-16 code units of the text after
//! it is escaped for Slack and for JSON.

use std::borrow::Cow;

/// At most this many combining marks on one character. More of them would cover the text around it.
const MAX_MARKS: usize = 4;

/// A foreign string as inline code, in which nothing is formatted. At most `max` units and the backticks.
pub(crate) fn code(text: &str, max: usize) -> String {
    // Nothing can be escaped within inline code: a backtick would end it.
    let text = clean(&text.replace('`', ""));
    let text = if text.is_empty() { "?" } else { &text };
    format!("`{}`", escape(&cut(text, max)))
}

/// A foreign string as a part of a sentence, without anything that Slack takes for markup. At most `max` units.
pub(crate) fn prose(text: &str, max: usize) -> String {
    escape(&words(text, max))
}

/// The same directly before a `:` of ours: the two together must not become an emoji.
pub(crate) fn prose_before_colon(text: &str, max: usize) -> String {
    let text = disarm(&format!("{}:", prose(text, max)));
    text.strip_suffix(':').unwrap_or(&text).to_owned()
}

/// The same for a `plain_text` object. Slack does not say whether it decodes escaped characters there, so they are removed.
pub(crate) fn plain(text: &str, max: usize) -> String {
    words(&text.replace(['&', '<', '>'], ""), max)
}

/// The length of an assembled text.
pub(crate) fn units(text: &str) -> usize {
    text.chars()
        .map(|c| match c {
            '"' | '\\' => 2,
            _ => c.len_utf16(),
        })
        .sum()
}

/// Whether it is visible ASCII that does not have to be escaped.
fn is_inert(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_ascii_graphic() && !matches!(c, '&' | '<' | '>' | '"' | '\\' | '`'))
}

/// Checks that a browser can open the URL and that it can be a part of a Slack link.
pub(crate) fn link(url: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    let is_web = matches!(url.scheme(), "http" | "https") && url.has_host();
    let is_public = url.username().is_empty() && url.password().is_none();
    let is_page = is_public && url.query().is_none() && url.fragment().is_none();
    // A URL may contain `|`, but in a Slack link that would end it.
    let url = url.as_str().replace('|', "%7C");
    (is_web && is_page && url.len() <= 1_200 && is_inert(&url)).then_some(url)
}

/// Escapes `&`, `<` and `>`, exactly these: they could begin a mention, a link or a date.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn words(text: &str, max: usize) -> String {
    let text = clean(&text.replace(['*', '~', '`'], ""));
    let text = clean(&disarm(&text));
    // Again, because the cut may separate a `_` from its word.
    disarm(&cut(if text.is_empty() { "?" } else { &text }, max))
}

/// Removes what cannot be escaped outside inline code: `_` around words, `:emoji:`, and the `://` of a bare URL.
fn disarm(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut disarmed = String::with_capacity(text.len());
    for (at, &c) in chars.iter().enumerate() {
        let is_letter = |c: Option<&char>| c.is_some_and(|c| c.is_alphanumeric());
        let rest = &chars[at + 1..];
        match c {
            // Inside a word it formats nothing.
            '_' if !(at > 0 && is_letter(chars.get(at - 1)) && is_letter(rest.first())) => {}
            ':' => {
                disarmed.push(c);
                let name = rest
                    .iter()
                    .take_while(|c| !matches!(c, ':' | '/' | ' '))
                    .count();
                if rest.starts_with(&['/', '/']) || (name > 0 && rest.get(name) == Some(&':')) {
                    disarmed.push(' ');
                }
            }
            _ => disarmed.push(c),
        }
    }
    disarmed
}

/// Makes one line of it, without invisible characters: controls, direction overrides, characters of no width.
fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let (mut gap, mut marks) = (true, 0);
    for c in text.chars() {
        if c.is_whitespace() {
            if !gap {
                cleaned.push(' ');
            }
            gap = true;
        } else if is_invisible(c) {
        } else if is_mark(c) {
            marks += 1;
            if !gap && marks <= MAX_MARKS {
                cleaned.push(c);
            }
        } else {
            (gap, marks) = (false, 0);
            cleaned.push(c);
        }
    }
    cleaned.truncate(cleaned.trim_end().len());
    cleaned
}

/// Whether `escape_debug` escapes `c` in `"ac"`: this uses the standard library's tables of printable characters.
fn is_escaped_within(c: char) -> bool {
    let mut buffer = [b'a'; 5];
    let length = 1 + c.encode_utf8(&mut buffer[1..]).len();
    // An `a` and a backslash with one character are the longest that is not an escape code.
    std::str::from_utf8(&buffer[..length])
        .is_ok_and(|text| text.escape_debug().count() > "a\\'".len())
}

fn is_invisible(c: char) -> bool {
    match c {
        // Printable according to their category, but invisible: fillers, joiners and variation selectors.
        '\u{34f}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{17b4}'
        | '\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{2800}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{ffa0}'
        | '\u{e0000}'..='\u{e0fff}' => true,
        ' '..='~' => false,
        // Controls, format characters, private and unassigned ones.
        _ => c.is_control() || is_escaped_within(c),
    }
}

/// Whether `c` is drawn onto the character before it.
fn is_mark(c: char) -> bool {
    // The standard library escapes combining marks at the beginning of a string and nowhere else.
    match c {
        '\0'..='~' => false,
        // Skin tones: characters of their own that are drawn onto an emoji.
        '\u{1f3fb}'..='\u{1f3ff}' => true,
        _ => c.escape_debug().count() > 2 && !is_escaped_within(c),
    }
}

/// The longest beginning that has at most `max` units after it is escaped, with "…" if something was cut.
fn cut(text: &str, max: usize) -> String {
    let (mut used, mut fits) = (0, 0);
    for (at, c) in text.char_indices() {
        // A character is never separated from its marks.
        if used < max && !is_mark(c) {
            fits = at;
        }
        used += match c {
            '&' => "&amp;".len(),
            '<' | '>' => "&lt;".len(),
            '"' | '\\' => 2,
            _ => c.len_utf16(),
        };
        if used > max {
            return format!("{}…", text[..fits].trim_end());
        }
    }
    text.to_owned()
}

/// Cuts an assembled text to at most `max` UTF-16 code units, with "…" if something was cut. It never separates a
/// character from its marks, nor cuts through an escaped character.
pub(crate) fn shorten(text: &str, max: usize) -> Cow<'_, str> {
    if text.encode_utf16().count() <= max {
        return text.into();
    }
    let (mut used, mut fits, mut escaped) = (0, 0, false);
    for (at, c) in text.char_indices() {
        if used < max && !escaped && !is_mark(c) {
            fits = at;
        }
        escaped = c == '&' || (escaped && c != ';');
        used += c.len_utf16();
        if used > max {
            break;
        }
    }
    format!("{}…", text[..fits].trim_end()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_three_characters_are_escaped_in_the_right_order() {
        assert_eq!(
            prose("a&b <!channel> &lt; \"q\"", 99),
            "a&amp;b &lt;!channel&gt; &amp;lt; \"q\""
        );
        assert_eq!(
            code("<@U1>&<https://x|y>", 99),
            "`&lt;@U1&gt;&amp;&lt;https://x|y&gt;`"
        );
    }

    #[test]
    fn inline_code_can_not_be_left() {
        assert_eq!(code("a` *b* `c", 99), "`a *b* c`");
        assert_eq!(code("```", 99), "`?`");
        assert_eq!(code(" a\nb ", 99), "`a b`");
    }

    #[test]
    fn a_sentence_keeps_names_and_loses_markup() {
        assert_eq!(prose("my_app_v1", 99), "my_app_v1");
        assert_eq!(prose("_x_ *b* ~s~ `c`", 99), "x b s c");
        assert_eq!(prose("nginx:1.27", 99), "nginx:1.27");
        assert_eq!(prose(":fire::wave:", 99), ": fire:: wave:");
        assert_eq!(prose("see https://x.example", 99), "see https: //x.example");
        assert_eq!(prose(" \u{200b}*", 99), "?");
        assert_eq!(prose("a_b", 3), "a_b");
        assert_eq!(prose("a_bc", 3), "a…");
    }

    #[test]
    fn a_colon_of_ours_makes_no_emoji_with_the_word_before_it() {
        assert_eq!(prose_before_colon("prod", 99), "prod");
        assert_eq!(prose_before_colon("eks:fire", 99), "eks: fire");
        assert_eq!(prose_before_colon(":", 99), ":");
        assert_eq!(prose_before_colon(":fire/x", 6), ": fire…");
    }

    #[test]
    fn what_can_not_be_seen_is_taken_out() {
        for hidden in [
            "\u{0}",
            "\u{7}",
            "\u{1b}",
            "\u{7f}",
            "\u{9b}",
            "\u{ad}",
            "\u{34f}",
            "\u{61c}",
            "\u{200b}",
            "\u{200d}",
            "\u{200e}",
            "\u{202e}",
            "\u{2060}",
            "\u{2066}",
            "\u{2069}",
            "\u{3164}",
            "\u{fe0f}",
            "\u{feff}",
            "\u{e000}",
            "\u{e0041}",
            "\u{e0100}",
        ] {
            assert_eq!(
                code(&format!("a{hidden}b"), 99),
                "`ab`",
                "{}",
                hidden.escape_unicode()
            );
        }
        for space in [
            "\t", "\n", "\r\n", "\u{85}", "\u{a0}", "\u{2028}", "\u{3000}",
        ] {
            assert_eq!(
                code(&format!("a{space}b"), 99),
                "`a b`",
                "{}",
                space.escape_unicode()
            );
        }
        assert_eq!(
            code("héllo – 名前 🚀 it's \"\\", 99),
            "`héllo – 名前 🚀 it's \"\\`"
        );
    }

    #[test]
    fn marks_stay_with_their_character_and_are_few() {
        let acute = "e\u{301}";
        assert_eq!(code(&acute.repeat(4), 99), format!("`{}`", acute.repeat(4)));
        // Room for three characters and a half, then for three, less the "…".
        assert_eq!(cut(&acute.repeat(4), 7), format!("{}…", acute.repeat(3)));
        assert_eq!(cut(&acute.repeat(4), 6), format!("{}…", acute.repeat(2)));
        assert_eq!(
            code(&format!("a{}b", "\u{301}".repeat(99)), 99),
            format!("`a{}b`", "\u{301}".repeat(MAX_MARKS))
        );
        assert_eq!(code("\u{301}\u{301}a", 99), "`a`");
    }

    #[test]
    fn an_assembled_text_is_cut_between_characters() {
        assert_eq!(shorten("abcdef", 6), "abcdef");
        assert_eq!(shorten("abcdef", 5), "abcd…");
        assert_eq!(shorten("abc def", 5), "abc…");
        assert_eq!(shorten("🚀🚀🚀", 5), "🚀🚀…");
        assert_eq!(shorten("a&amp;b&lt;c", 12), "a&amp;b&lt;c");
        assert_eq!(shorten("a&amp;b&lt;c", 11), "a&amp;b…");
        assert_eq!(shorten("a&amp;b", 6), "a…");
        let acute = "e\u{301}";
        assert_eq!(
            shorten(&acute.repeat(4), 6),
            format!("{}…", acute.repeat(2))
        );
        assert_eq!(shorten("a", 0), "…");
    }

    #[test]
    fn a_cut_counts_the_escaped_text_in_utf_16() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 5), "abcd…");
        assert_eq!(cut("🚀🚀🚀", 6), "🚀🚀🚀");
        assert_eq!(cut("🚀🚀🚀", 5), "🚀🚀…");
        assert_eq!(cut("🚀🚀🚀", 4), "🚀…");
        assert_eq!(prose("&&&&", 16), "&amp;&amp;&amp;…");
        assert_eq!(prose("<<<<", 13), "&lt;&lt;&lt;…");
        assert_eq!(cut("a", 0), "…");
    }
}
