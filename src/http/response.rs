//! What an answer, or the lack of one, means for a message. Decisions only: whoever sends and whoever delivers act on them.
//!
//! Classes (and so what is lost, repeated or held) follow Standard Webhooks, the HTTP webhook of `CloudEvents` and Slack's
//! documents. Messages are sentences for people and end up in status: they hold neither a URL nor any text of an answer,
//! except a code of Slack's, which can't hold a secret.

use std::time::Duration;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde::Deserialize;
use thiserror::Error;

use crate::{
    api::condition::reasons,
    http::{address_guard::Denied, destination::DestinationKind},
};

/// The longest `Retry-After` that is obeyed: a receiver must not be able to silence a setting for days.
pub(crate) const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);

/// How much of an answer is read, in bytes. Slack's codes have at most some 40; the rest is for other servers' JSON.
pub(crate) const ANSWER_READ: usize = 4096;

/// What became of an attempt; `message`: why, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // `reason` and `message`
pub enum Outcome {
    /// The destination has it.
    Delivered {
        /// What was unusual in the answer.
        note: Option<Note>,
    },
    /// The destination is in trouble: try again with backoff.
    Retry {
        /// How long the destination asks to be left alone, at most an hour.
        after: Option<Duration>,
        reason: Reason,
        message: String,
    },
    /// The destination will never take this event: set it aside and go on.
    Refused { reason: Reason, message: String },
    /// The destination is wrong: hold until the Secret or the spec changes.
    Hold {
        /// Whether attempts go on meanwhile.
        retry: HoldRetry,
        reason: Reason,
        message: String,
    },
    /// The destination says that it no longer exists: hold until the Secret or the spec changes.
    Gone { message: String },
}

/// Whether a held message is tried again before the Secret or the spec changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldRetry {
    /// Tried again now and then: the destination may be mended without a change here.
    Slowly,
    /// Not tried again: the destination may have taken the message, and each attempt may be one copy more.
    AfterChange,
}

/// What was unusual in the answer to a message that was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A success without Slack's `ok`, as servers that are compatible with Slack give it.
    WithoutSlackOk,
}

reasons! {
    /// Why an attempt failed, as one word of a closed list.
    #[allow(missing_docs)] // The names say it; a message says the rest.
    pub enum Reason {
        Timeout, ConnectFailed, ConnectionLost, DnsFailed, TlsFailed, ProxyFailed, DestinationDenied, RateLimited,
        ServerError, PayloadRefused, AuthRefused, NotFound, Gone, Redirected, UnexpectedAnswer, SlackCredential,
        SlackDestination,
    }
}

/// Why there was no (full) answer, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Fault {
    #[error("the destination did not answer in time; it may have taken the event")]
    Timeout,
    #[error("no connection to the destination could be made")]
    Connect,
    #[error("the connection broke before the destination answered; it may have taken the event")]
    Lost,
    #[error(
        "the destination's host name does not exist or has no address; check its spelling and the DNS"
    )]
    NameNotFound,
    #[error(
        "the DNS gave no answer about the destination's host name; if this goes on, check the cluster's DNS"
    )]
    Dns,
    #[error("the destination's {0}")]
    Tls(TlsProblem),
    #[error("the proxy made no connection to the destination; check the proxy and its rules")]
    Proxy,
    #[error("the proxy answered 407: it wants credentials; give them in the proxy's URL")]
    ProxyCredentials,
    /// The operator's own policy.
    #[error(transparent)]
    Denied(Denied),
    #[error(
        "the head of the destination's answer is longer than 16 KiB or has more than 100 headers, so the rest of it was not read; let it answer with fewer and shorter headers; it may have taken the event"
    )]
    LongHead,
    #[error(
        "what the destination answered is not a valid HTTP answer; it may have taken the event"
    )]
    Protocol,
}

/// What is wrong with TLS, as far as it tells people what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum TlsProblem {
    #[error(
        "certificate comes from an authority that is not trusted; give the operator that authority's certificate"
    )]
    UnknownAuthority,
    #[error("certificate has expired; renew it there")]
    Expired,
    #[error("certificate is not valid yet; check it and the clocks")]
    NotYetValid,
    #[error("certificate is for another host name; use a name that it holds")]
    OtherHost,
    #[error(
        "certificate is that of an authority (as self-signed ones often are), not of a server; replace it there by one for servers"
    )]
    AuthorityItself,
    #[error(
        "certificate, or one that vouches for it, uses {0}, which is not supported; use keys of RSA, P-256, P-384 or Ed25519 there"
    )]
    UnsupportedAlgorithm(&'static str),
    /// The destination ended the handshake.
    #[error(
        "TLS handshake failed, because it shares no version, cipher or kind of key with the operator; it must take TLS 1.2 or 1.3 and have a key of RSA, P-256, P-384 or Ed25519 (P-521 is not supported)"
    )]
    NothingInCommon,
    #[error(
        "TLS handshake is longer than 16 KiB, or has more than 8 certificates beside the server's own; let it send fewer or smaller ones"
    )]
    TooLong,
    #[error(
        "TLS asks for a certificate of the client, and Shipbell has none; let it take messages without"
    )]
    ClientCertificate,
    /// Not TLS at all, …
    #[error(
        "TLS handshake failed; check that the port speaks TLS 1.2 or 1.3 and that its certificate is valid"
    )]
    Other,
}

impl Outcome {
    /// Why it failed, if it did.
    pub const fn reason(&self) -> Option<Reason> {
        match self {
            Self::Delivered { .. } => None,
            Self::Retry { reason, .. }
            | Self::Refused { reason, .. }
            | Self::Hold { reason, .. } => Some(*reason),
            Self::Gone { .. } => Some(Reason::Gone),
        }
    }

    /// Why it failed, as a sentence; empty if it didn't.
    pub fn message(&self) -> &str {
        match self {
            Self::Delivered { .. } => "",
            Self::Retry { message, .. }
            | Self::Refused { message, .. }
            | Self::Hold { message, .. }
            | Self::Gone { message } => message,
        }
    }

    /// Whether the message itself was refused, so that a plainer one (text only) may still be taken.
    pub const fn is_payload_problem(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                reason: Reason::PayloadRefused,
                ..
            }
        )
    }

    /// The same without what tells more than the class of the answer: taken, not taken now, not taken at all, no answer.
    pub(crate) fn class_alone(self) -> Self {
        const ELSEWHERE: &str =
            "the destination has an internal address, so the operator's log has the details";
        let say = |what: &str| format!("{what}; {ELSEWHERE}");
        match self {
            Self::Delivered { .. } => Self::DELIVERED,
            // These are not about the destination's answer.
            Self::Retry {
                reason: Reason::DnsFailed,
                ..
            }
            | Self::Hold {
                reason: Reason::DnsFailed | Reason::DestinationDenied | Reason::ProxyFailed,
                ..
            } => self,
            Self::Retry {
                after,
                reason: Reason::ServerError | Reason::RateLimited,
                ..
            } => Self::retry(
                after,
                Reason::ServerError,
                say("the destination answered that it cannot take the event now"),
            ),
            Self::Retry { after, .. } => Self::retry(
                after,
                Reason::ConnectFailed,
                say("no answer of a receiver of events came"),
            ),
            // Whether something that speaks no TLS listens there, or nothing.
            Self::Hold {
                reason: Reason::TlsFailed,
                ..
            } => Self::retry(
                None,
                Reason::ConnectFailed,
                say("no answer of a receiver of events came"),
            ),
            Self::Refused { .. } => Self::refused(say("the destination refuses this event")),
            Self::Hold { retry, .. } => Self::Hold {
                retry,
                reason: Reason::UnexpectedAnswer,
                message: say("the destination answered that it does not take events"),
            },
            Self::Gone { .. } => Self::Hold {
                retry: HoldRetry::AfterChange,
                reason: Reason::UnexpectedAnswer,
                message: say("the destination answered that it does not take events"),
            },
        }
    }

    /// Delivered, with nothing to note.
    pub const DELIVERED: Self = Self::Delivered { note: None };

    const DELIVERED_WITHOUT_OK: Self = Self::Delivered {
        note: Some(Note::WithoutSlackOk),
    };

    fn retry(after: Option<Duration>, reason: Reason, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Retry {
            after,
            reason,
            message,
        }
    }

    fn refused(message: impl Into<String>) -> Self {
        let (reason, message) = (Reason::PayloadRefused, message.into());
        Self::Refused { reason, message }
    }

    fn hold(reason: Reason, message: impl Into<String>) -> Self {
        Self::Hold {
            retry: HoldRetry::Slowly,
            reason,
            message: message.into(),
        }
    }

    fn hold_until_change(message: impl Into<String>) -> Self {
        Self::Hold {
            retry: HoldRetry::AfterChange,
            reason: Reason::UnexpectedAnswer,
            message: message.into(),
        }
    }
}

/// What an answer means. `retry_after` is the header's value, `body` the beginning of the body (only Slack's is read).
pub(crate) fn of_answer(
    kind: DestinationKind,
    status: u16,
    retry_after: Option<&[u8]>,
    body: &[u8],
    now: Timestamp,
) -> Outcome {
    let after = retry_after.and_then(|value| parse_retry_after(value, now));
    match kind {
        DestinationKind::Slack => of_slack(status, after, body),
        DestinationKind::Webhook => of_status(status, after),
    }
}

fn of_status(status: u16, after: Option<Duration>) -> Outcome {
    let said = format!("the destination answered {status}");
    match status {
        200..=299 => Outcome::DELIVERED,
        300..=399 => Outcome::hold(
            Reason::Redirected,
            format!("{said}; redirects are never followed: give the URL that it redirects to"),
        ),
        400 | 413 | 415 | 422 => Outcome::refused(format!(
            "{said}: it refuses this event because of its content"
        )),
        401 | 403 => Outcome::hold(
            Reason::AuthRefused,
            format!("{said}: it does not accept the URL's credentials"),
        ),
        404 => Outcome::hold(
            Reason::NotFound,
            format!("{said}: nothing listens at the URL's path"),
        ),
        410 => Outcome::Gone {
            message: format!(
                "{said}: it no longer exists; no event is sent until the Secret or the spec changes, or a test message is delivered"
            ),
        },
        429 => Outcome::retry(
            after,
            Reason::RateLimited,
            format!("{said}: too many requests"),
        ),
        // A server that gave up waiting for the request; a conflict or a replay that may be over soon.
        408 => Outcome::retry(after, Reason::Timeout, said),
        409 | 425 | 500..=599 => Outcome::retry(after, Reason::ServerError, said),
        // Anything else says that it isn't a receiver of events: the event waits, rather than to be lost on a wrong URL.
        402..=499 => Outcome::hold(
            Reason::UnexpectedAnswer,
            format!("{said}, which is not the answer of a receiver of events; check the URL"),
        ),
        _ => Outcome::retry(
            after,
            Reason::UnexpectedAnswer,
            format!("{said}, which is not a valid status"),
        ),
    }
}

/// Slack tells by the body what is wrong; sources disagree on the statuses, so the body comes first.
fn of_slack(status: u16, after: Option<Duration>, body: &[u8]) -> Outcome {
    let body = body.trim_ascii();
    if status == 429 {
        return Outcome::retry(
            after,
            Reason::RateLimited,
            "Slack answered 429: too many messages",
        );
    }
    match slack_code(body) {
        Some(code) => of_slack_code(status, after, code),
        None => of_slack_without_code(status, after, body),
    }
}

/// An answer that isn't Slack's own: that of a server that is compatible with it, or of something before it.
fn of_slack_without_code(status: u16, after: Option<Duration>, body: &[u8]) -> Outcome {
    match of_status(status, after) {
        Outcome::Delivered { .. } if is_page(body) => Outcome::hold_until_change(format!(
            "the destination answered {status} with a web page or another document, as login pages do, so it is not known whether it took the message; check that the URL is that of an incoming webhook (no event is sent until the Secret or the spec changes, or a test message is delivered)"
        )),
        Outcome::Delivered { .. } if says_failed(body) => Outcome::hold_until_change(format!(
            "the destination answered {status}, but its JSON says that it failed; check that the URL is that of an incoming webhook (no event is sent until the Secret or the spec changes, or a test message is delivered)"
        )),
        // Mattermost, Rocket.Chat, Zulip, Discord and proxies before them: JSON, nothing, or a word of their own.
        Outcome::Delivered { .. } => Outcome::DELIVERED_WITHOUT_OK,
        // Not the receiver's own answer: a proxy's, or that of a port that wants TLS.
        Outcome::Refused { .. } if status == 400 && is_page(body) => Outcome::hold(
            Reason::UnexpectedAnswer,
            format!(
                "the destination answered {status} with a web page or another document; check the URL, its scheme and its port"
            ),
        ),
        outcome => outcome,
    }
}

fn of_slack_code(status: u16, after: Option<Duration>, code: &str) -> Outcome {
    let said = format!("Slack answered {code}");
    let hold = |reason, cure| Outcome::hold(reason, format!("{said}: {cure}"));
    match code {
        "ok" if (200..=299).contains(&status) => Outcome::DELIVERED,
        "no_service" | "no_active_hooks" | "no_service_id" | "no_team" | "invalid_token"
        | "team_disabled" => hold(
            Reason::SlackCredential,
            "the incoming webhook was removed or disabled; create a new one and store its URL in the Secret",
        ),
        "channel_is_archived" => hold(
            Reason::SlackDestination,
            "unarchive the channel, or store an incoming webhook of another one",
        ),
        "channel_not_found" | "user_not_found" => hold(
            Reason::SlackDestination,
            "the incoming webhook's channel or user no longer exists; create a new webhook",
        ),
        "action_prohibited" | "posting_to_general_channel_denied" => hold(
            Reason::SlackDestination,
            "an admin of the workspace must allow the webhook to post there",
        ),
        "invalid_payload"
        | "no_text"
        | "invalid_blocks"
        | "invalid_blocks_format"
        | "invalid_attachments"
        | "too_many_attachments"
        | "missing_text_or_fallback_or_attachments" => Outcome::refused(format!(
            "{said}: it refuses this message because of its content"
        )),
        "rate_limited" | "ratelimited" => Outcome::retry(
            after,
            Reason::RateLimited,
            format!("{said}: too many messages"),
        ),
        "rollup_error"
        | "fatal_error"
        | "internal_error"
        | "service_unavailable"
        | "request_timeout" => Outcome::retry(after, Reason::ServerError, said),
        _ => match of_status(status, after) {
            Outcome::Delivered { .. } => Outcome::DELIVERED_WITHOUT_OK,
            outcome => outcome.with_code(code),
        },
    }
}

impl Outcome {
    /// Adds a code that we don't know but people may.
    fn with_code(mut self, code: &str) -> Self {
        match &mut self {
            Self::Delivered { .. } => {}
            Self::Retry { message, .. }
            | Self::Refused { message, .. }
            | Self::Hold { message, .. }
            | Self::Gone { message } => *message = format!("{message} ({code})"),
        }
        self
    }
}

/// A body that is nothing but one of Slack's codes. Anything else is never shown: it may repeat the URL or the message.
fn slack_code(body: &[u8]) -> Option<&str> {
    let is_code =
        (1..=64).contains(&body.len()) && body.iter().all(|b| b.is_ascii_lowercase() || *b == b'_');
    is_code.then(|| str::from_utf8(body).ok()).flatten()
}

/// Whether a body is a page (HTML) or another document rather than an answer for programs. The header says nothing of it:
/// Slack itself calls its `ok` HTML, as many servers do with their JSON.
fn is_page(body: &[u8]) -> bool {
    let text = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    match text.trim_ascii_start().first() {
        Some(b'<') => true,
        Some(b'{' | b'[') => false,
        // A word or a line of text is short.
        _ => body.len() >= ANSWER_READ || str::from_utf8(body).is_err(),
    }
}

/// Whether a body is JSON that reports a failure, as Slack's Web API and Rocket.Chat do under status 200.
fn says_failed(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Answer {
        ok: Option<bool>,
        success: Option<bool>,
    }
    serde_json::from_slice::<Answer>(body)
        .is_ok_and(|answer| answer.ok == Some(false) || answer.success == Some(false))
}

impl From<Denied> for Outcome {
    fn from(denied: Denied) -> Self {
        of_fault(&Fault::Denied(denied))
    }
}

/// What the lack of an answer means.
pub(crate) fn of_fault(fault: &Fault) -> Outcome {
    let message = fault.to_string();
    let retry = |reason, message| Outcome::retry(None, reason, message);
    match fault {
        Fault::Timeout => retry(Reason::Timeout, message),
        Fault::Connect => retry(Reason::ConnectFailed, message),
        Fault::Lost => retry(Reason::ConnectionLost, message),
        Fault::NameNotFound => Outcome::hold(Reason::DnsFailed, message),
        Fault::Dns => retry(Reason::DnsFailed, message),
        Fault::Tls(_) => Outcome::hold(Reason::TlsFailed, message),
        Fault::Proxy => retry(Reason::ProxyFailed, message),
        Fault::ProxyCredentials => Outcome::hold(Reason::ProxyFailed, message),
        Fault::Denied(_) => Outcome::hold(Reason::DestinationDenied, message),
        Fault::LongHead | Fault::Protocol => retry(Reason::UnexpectedAnswer, message),
    }
}

/// `Retry-After` (RFC 9110 §10.2.3): seconds, or a date in any of the three forms of §5.6.7. Garbage is as if absent, a
/// date in the past is no wait, more than [`LONGEST_RETRY_AFTER`] is cut to it.
fn parse_retry_after(value: &[u8], now: Timestamp) -> Option<Duration> {
    let value = str::from_utf8(value).ok()?.trim_ascii();
    if value.is_empty() {
        return None;
    }
    if value.bytes().all(|b| b.is_ascii_digit()) {
        // Too many digits for a number are still a number of seconds.
        let seconds = value
            .parse()
            .map_or(LONGEST_RETRY_AFTER, Duration::from_secs);
        return Some(seconds.min(LONGEST_RETRY_AFTER));
    }
    let date = [
        "%a, %d %b %Y %H:%M:%S GMT",
        "%A, %d-%b-%y %H:%M:%S GMT",
        "%a %b %e %H:%M:%S %Y",
    ]
    .iter()
    .find_map(|form| DateTime::strptime(form, value).ok())?;
    let wait = date.duration_since(TimeZone::UTC.to_datetime(now));
    let wait = Duration::try_from(wait).unwrap_or_default();
    Some(wait.min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: &str = "1994-11-06T08:49:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn webhook(status: u16) -> Outcome {
        of_answer(DestinationKind::Webhook, status, None, b"", now())
    }

    fn slack(status: u16, body: &str) -> Outcome {
        of_answer(DestinationKind::Slack, status, None, body.as_bytes(), now())
    }

    fn class(outcome: &Outcome) -> String {
        let class = match outcome {
            Outcome::Delivered { .. } => return "Delivered".to_owned(),
            Outcome::Retry { .. } => "Retry",
            Outcome::Refused { .. } => "Refused",
            Outcome::Hold { .. } => "Hold",
            Outcome::Gone { .. } => "Gone",
        };
        format!("{class} {}", outcome.reason().unwrap().as_str())
    }

    #[test]
    fn every_status_has_its_class() {
        for status in 100..=999 {
            let expected = match status {
                200..=299 => "Delivered",
                300..=399 => "Hold Redirected",
                400 | 413 | 415 | 422 => "Refused PayloadRefused",
                401 | 403 => "Hold AuthRefused",
                404 => "Hold NotFound",
                408 => "Retry Timeout",
                409 | 425 | 500..=599 => "Retry ServerError",
                410 => "Gone Gone",
                429 => "Retry RateLimited",
                400..=499 => "Hold UnexpectedAnswer",
                _ => "Retry UnexpectedAnswer",
            };
            assert_eq!(class(&webhook(status)), expected, "{status}");
            if !matches!(status, 200..=299 | 400) {
                // A page from something before Slack is judged like any other receiver's.
                assert_eq!(class(&slack(status, "<html>")), expected, "{status}");
            }
        }
    }

    #[test]
    fn slack_is_judged_by_its_body_first() {
        for (status, body, expected) in [
            (200, "ok", "Delivered"),
            (200, "ok\n", "Delivered"),
            (200, "<html>ok</html>", "Hold UnexpectedAnswer"),
            (200, r#"{"ok":false,"error":"x"}"#, "Hold UnexpectedAnswer"),
            (200, "no_service", "Hold SlackCredential"),
            (404, "ok", "Hold NotFound"),
            (404, "no_service", "Hold SlackCredential"),
            (404, "no_active_hooks", "Hold SlackCredential"),
            (400, "no_service_id", "Hold SlackCredential"),
            (404, "no_service_id", "Hold SlackCredential"),
            (400, "no_team", "Hold SlackCredential"),
            (404, "no_team", "Hold SlackCredential"),
            (403, "invalid_token", "Hold SlackCredential"),
            (403, "team_disabled", "Hold SlackCredential"),
            (404, "channel_not_found", "Hold SlackDestination"),
            (410, "channel_is_archived", "Hold SlackDestination"),
            (400, "channel_is_archived", "Hold SlackDestination"),
            (400, "user_not_found", "Hold SlackDestination"),
            (404, "user_not_found", "Hold SlackDestination"),
            (403, "action_prohibited", "Hold SlackDestination"),
            (
                403,
                "posting_to_general_channel_denied",
                "Hold SlackDestination",
            ),
            (400, "invalid_payload", "Refused PayloadRefused"),
            (500, "invalid_payload", "Refused PayloadRefused"),
            (400, "no_text", "Refused PayloadRefused"),
            (400, "invalid_blocks", "Refused PayloadRefused"),
            (400, "invalid_blocks_format", "Refused PayloadRefused"),
            (400, "invalid_attachments", "Refused PayloadRefused"),
            (400, "too_many_attachments", "Refused PayloadRefused"),
            (
                400,
                "missing_text_or_fallback_or_attachments",
                "Refused PayloadRefused",
            ),
            (413, "<html>", "Refused PayloadRefused"),
            (429, "", "Retry RateLimited"),
            (429, "rate_limited", "Retry RateLimited"),
            (429, "no_service", "Retry RateLimited"),
            (200, "rate_limited", "Retry RateLimited"),
            (400, "ratelimited", "Retry RateLimited"),
            (500, "rollup_error", "Retry ServerError"),
            (500, "fatal_error", "Retry ServerError"),
            (200, "internal_error", "Retry ServerError"),
            (503, "", "Retry ServerError"),
            (500, "news_to_us", "Retry ServerError"),
            (408, "", "Retry Timeout"),
            (302, "", "Hold Redirected"),
            (400, "<html>", "Hold UnexpectedAnswer"),
            (400, "news_to_us", "Refused PayloadRefused"),
            (403, "news_to_us", "Hold AuthRefused"),
            (410, "", "Gone Gone"),
        ] {
            let outcome = slack(status, body);
            assert_eq!(class(&outcome), expected, "{status} {body}");
            assert_eq!(
                outcome.is_payload_problem(),
                expected.starts_with("Refused"),
                "{status} {body}"
            );
            if body.contains('_') && status != 429 {
                assert!(outcome.message().contains(body), "{outcome:?}");
            }
        }
    }

    #[test]
    fn a_success_of_a_server_that_imitates_slack_is_delivered_with_a_note() {
        for body in [
            "",
            "\n",
            "OK",
            "news_to_us",
            "success",
            "Message sent.",
            "null",
            "{}",
            "[]",
            r#"{"ok":true}"#,
            r#"{"success":true}"#,
            r#"{"result":"success","msg":"","id":7}"#,
            "\u{feff}{\"id\":\"1\"}",
            r#"{"text":"<!doctype html>"}"#,
            // Discord repeats the message, and no more than the beginning is read.
            &format!("{{\"content\":\"{}", "x".repeat(ANSWER_READ))[..ANSWER_READ],
        ] {
            for status in [200, 201, 202, 204] {
                let note = Some(Note::WithoutSlackOk);
                assert_eq!(slack(status, body), Outcome::Delivered { note }, "{body:?}");
            }
        }
        assert_eq!(slack(200, "ok"), Outcome::DELIVERED);
        // What only a webhook of ours gets is judged by its status alone.
        assert_eq!(webhook(200), Outcome::DELIVERED);
    }

    #[test]
    fn a_page_or_a_reported_failure_under_a_success_is_not_repeated_before_a_change() {
        for body in [
            "<html>ok</html>",
            " \n<!DOCTYPE html><title>Log in</title>",
            "\u{feff}<html>",
            "<!-- x --><HTML>",
            r#"{"ok":false,"error":"invalid_auth"}"#,
            r#"{"success":false}"#,
            &"x".repeat(ANSWER_READ),
        ] {
            let outcome = slack(200, body);
            assert!(
                matches!(
                    outcome,
                    Outcome::Hold {
                        retry: HoldRetry::AfterChange,
                        reason: Reason::UnexpectedAnswer,
                        ..
                    }
                ),
                "{body}: {outcome:?}"
            );
        }
    }

    #[test]
    fn what_a_server_that_imitates_slack_refuses_is_a_problem_of_the_payload() {
        for body in [
            "",
            r#"{"content":["Must be 2000 or fewer in length."]}"#,
            r#"{"message":"Invalid Form Body","code":50035}"#,
            "Unable to parse incoming data",
            "msg_too_long",
        ] {
            assert!(slack(400, body).is_payload_problem(), "{body}");
        }
        assert!(
            !slack(400, "<html>The plain HTTP request was sent to HTTPS port").is_payload_problem()
        );
    }

    #[test]
    fn faults_have_their_class() {
        let denied = Denied::Port(10250);
        for (fault, expected) in [
            (Fault::Timeout, "Retry Timeout"),
            (Fault::Connect, "Retry ConnectFailed"),
            (Fault::Lost, "Retry ConnectionLost"),
            (Fault::NameNotFound, "Hold DnsFailed"),
            (Fault::Dns, "Retry DnsFailed"),
            (Fault::Tls(TlsProblem::UnknownAuthority), "Hold TlsFailed"),
            (Fault::Tls(TlsProblem::Expired), "Hold TlsFailed"),
            (Fault::Tls(TlsProblem::NotYetValid), "Hold TlsFailed"),
            (Fault::Tls(TlsProblem::OtherHost), "Hold TlsFailed"),
            (Fault::Tls(TlsProblem::AuthorityItself), "Hold TlsFailed"),
            (
                Fault::Tls(TlsProblem::UnsupportedAlgorithm("P-521")),
                "Hold TlsFailed",
            ),
            (Fault::Tls(TlsProblem::NothingInCommon), "Hold TlsFailed"),
            (Fault::Tls(TlsProblem::TooLong), "Hold TlsFailed"),
            (Fault::Tls(TlsProblem::ClientCertificate), "Hold TlsFailed"),
            (Fault::Tls(TlsProblem::Other), "Hold TlsFailed"),
            (Fault::Proxy, "Retry ProxyFailed"),
            (Fault::ProxyCredentials, "Hold ProxyFailed"),
            (Fault::Denied(denied), "Hold DestinationDenied"),
            (Fault::LongHead, "Retry UnexpectedAnswer"),
            (Fault::Protocol, "Retry UnexpectedAnswer"),
        ] {
            let outcome = of_fault(&fault);
            assert_eq!(class(&outcome), expected, "{fault:?}");
            assert!(!outcome.message().is_empty());
        }
    }

    #[test]
    fn all_forms_of_retry_after_are_read() {
        for (value, seconds) in [
            ("0", Some(0)),
            ("30", Some(30)),
            (" 30\t", Some(30)),
            ("007", Some(7)),
            ("3600", Some(3600)),
            ("3601", Some(3600)),
            ("99999999999999999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(37)),
            ("Sun Nov  6 08:49:37 1994", Some(37)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", Some(0)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(3600)),
            ("Mon Nov 14 08:49:37 1994", Some(3600)),
            ("", None),
            (" ", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("1e3", None),
            ("NaN", None),
            ("inf", None),
            ("0x10", None),
            ("30 s", None),
            ("soon", None),
            ("٣", None),
            ("Sun, 06 Nov 1994 08:49:37 +0000", None),
            ("Sun, 06 Nov 1994", None),
            ("Sun, 32 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 25:49:37 GMT", None),
            ("1994-11-06T08:49:37Z", None),
        ] {
            assert_eq!(
                parse_retry_after(value.as_bytes(), now()),
                seconds.map(Duration::from_secs),
                "{value:?}"
            );
        }
        assert_eq!(parse_retry_after(b"\xff30", now()), None);
    }

    #[test]
    fn retry_after_is_obeyed_where_a_retry_follows() {
        for (kind, status) in [
            (DestinationKind::Webhook, 429),
            (DestinationKind::Webhook, 503),
            (DestinationKind::Slack, 429),
            (DestinationKind::Slack, 500),
        ] {
            let outcome = of_answer(kind, status, Some(b"30"), b"", now());
            assert!(
                matches!(outcome, Outcome::Retry { after: Some(after), .. } if after == Duration::from_secs(30)),
                "{outcome:?}"
            );
        }
        assert_eq!(
            of_answer(DestinationKind::Webhook, 200, Some(b"30"), b"", now()),
            Outcome::DELIVERED
        );
    }

    #[test]
    fn reasons_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> =
            Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(reason.as_str(), format!("{reason:?}"));
        }
    }

    proptest! {
        #![proptest_config(crate::simulation::testing::reader_tries())]

        #[test]
        fn no_answer_makes_it_panic_and_no_body_is_repeated(
            status: u16, header: Vec<u8>, body in "[ -~]{0,80}CANARY[ -~]{0,80}", slack: bool,
        ) {
            let kind = if slack { DestinationKind::Slack } else { DestinationKind::Webhook };
            let outcome = of_answer(kind, status, Some(&header), body.as_bytes(), now());
            prop_assert!(!outcome.message().contains("CANARY"));
            prop_assert!(outcome.message().len() < 400);
            if let Outcome::Retry { after: Some(after), .. } = outcome {
                prop_assert!(after <= LONGEST_RETRY_AFTER);
            }
        }

        #[test]
        fn retry_after_is_never_longer_than_the_longest(header: String) {
            prop_assert!(parse_retry_after(header.as_bytes(), now()).unwrap_or_default() <= LONGEST_RETRY_AFTER);
        }
    }
}
