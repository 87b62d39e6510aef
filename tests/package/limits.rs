//! What the pages say of limits, times and defaults is what the source says. Who changes a constant is told here which
//! sentences speak of it, and who writes such a sentence names its constant here.

use crate::{file, helm::rendered};
use std::fs;

/// How a constant is written in a sentence.
#[derive(Clone, Copy)]
enum As {
    /// `1,024`
    Number,
    /// `4096`
    Plain,
    Seconds,
    Minutes,
    Hours,
    MiB,
    KiB,
}

/// A sentence of a page in which `{}` stands for the constant, and where that is.
type Statement = (&'static str, &'static str, &'static str, &'static str, As);

const STATEMENTS: [Statement; 61] = [
    (
        "README.md",
        "at most {} events or one second of events per setting",
        "src/delivery/ack_window.rs",
        "WINDOW",
        As::Number,
    ),
    (
        "README.md",
        "**Retries last {} hours**",
        "src/delivery/subscription.rs",
        "MAX_AGE",
        As::Hours,
    ),
    (
        "SECURITY.md",
        "keep it longer than {} s",
        "src/http/config.rs",
        "TIMEOUT",
        As::Seconds,
    ),
    (
        "SECURITY.md",
        "send more than {} KiB that are read",
        "src/http/response.rs",
        "ANSWER_READ",
        As::KiB,
    ),
    (
        "docs/webhooks.md",
        "have at most {} bytes",
        "src/http/destination.rs",
        "MAX_URL",
        As::Plain,
    ),
    (
        "docs/webhooks.md",
        "A changed Secret is used within {} seconds",
        "src/delivery/setting_state.rs",
        "DESTINATION_FRESH",
        As::Seconds,
    ),
    (
        "docs/webhooks.md",
        "at most {} events, or the events of one second",
        "src/delivery/ack_window.rs",
        "WINDOW",
        As::Number,
    ),
    (
        "docs/webhooks.md",
        "no answer in {} s;",
        "src/http/config.rs",
        "TIMEOUT",
        As::Seconds,
    ),
    (
        "docs/webhooks.md",
        "tries again: after about {} s, 2 s, 4 s",
        "src/backoff.rs",
        "FIRST",
        As::Seconds,
    ),
    (
        "docs/webhooks.md",
        "holds: tries again after about {} s, 1 min",
        "src/backoff.rs",
        "FIRST_SLOW",
        As::Seconds,
    ),
    (
        "docs/webhooks.md",
        "`spec.retry.maxAge` ({} h,",
        "src/delivery/subscription.rs",
        "MAX_AGE",
        As::Hours,
    ),
    (
        "docs/webhooks.md",
        "from the DNS query to the answer | {} s;",
        "src/http/config.rs",
        "TIMEOUT",
        As::Seconds,
    ),
    (
        "docs/webhooks.md",
        "; {} s of it for the connection",
        "src/http/client.rs",
        "CONNECT",
        As::Seconds,
    ),
    (
        "docs/webhooks.md",
        "time to read the rest of the answer | {} s",
        "src/http/sender.rs",
        "DRAIN",
        As::Seconds,
    ),
    (
        "docs/slack.md",
        "at most {} snapshots",
        "src/delivery/next_message.rs",
        "DIGEST_MAX",
        As::Number,
    ),
    (
        "docs/events.md",
        "`settle.max` ({} s)",
        "src/snapshot/settle.rs",
        "or(spec.max, ",
        As::Seconds,
    ),
    (
        "docs/environments.md",
        "| `settle.quiet` | {}s |",
        "src/snapshot/settle.rs",
        "or(spec.quiet, ",
        As::Seconds,
    ),
    (
        "docs/environments.md",
        "| `settle.scaling` | {}s |",
        "src/snapshot/settle.rs",
        "or(spec.scaling, ",
        As::Seconds,
    ),
    (
        "docs/environments.md",
        "| `settle.max` | {}s |",
        "src/snapshot/settle.rs",
        "or(spec.max, ",
        As::Seconds,
    ),
    (
        "docs/environments.md",
        "| `settle.rollout` | {}m |",
        "src/snapshot/settle.rs",
        "or(spec.rollout, ",
        As::Minutes,
    ),
    (
        "docs/environments.md",
        "at the latest {} minutes after it began",
        "src/snapshot/settle.rs",
        "SCALING_MAX",
        As::Minutes,
    ),
    (
        "docs/environments.md",
        "all environments together {} per second",
        "src/snapshot/recorder_context.rs",
        "WRITES_PER_SECOND",
        As::Number,
    ),
    (
        "docs/environments.md",
        "written at most {} KiB per second",
        "src/snapshot/state/write_rate.rs",
        "BYTES_PER_SECOND",
        As::KiB,
    ),
    (
        "docs/environments.md",
        "it saves up to {} seconds of that",
        "src/snapshot/state/write_rate.rs",
        "SAVED_UP",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "{} KiB per second for each environment",
        "src/snapshot/state/write_rate.rs",
        "BYTES_PER_SECOND",
        As::KiB,
    ),
    (
        "docs/environments.md",
        "| `history.maxAge` | {}h by default",
        "src/snapshot/retention.rs",
        "MAX_AGE",
        As::Hours,
    ),
    (
        "docs/environments.md",
        "| size of one log | {} MiB |",
        "src/snapshot/retention.rs",
        "ENVIRONMENT_CAP",
        As::MiB,
    ),
    (
        "docs/environments.md",
        "| size of all logs | {} MiB",
        "src/snapshot/retention.rs",
        "TOTAL_CAP",
        As::MiB,
    ),
    (
        "docs/environments.md",
        "checks about every {} minutes",
        "src/config.rs",
        "old snapshots are removed\n    #[arg(long, default_value = \"",
        As::Minutes,
    ),
    (
        "docs/environments.md",
        "removes {} objects per second, and at most 200",
        "src/snapshot/retention.rs",
        "PER_SECOND",
        As::Number,
    ),
    (
        "docs/environments.md",
        "removes 5 objects per second, and at most {}",
        "src/snapshot/retention.rs",
        "MOST_PER_SECOND",
        As::Number,
    ),
    (
        "docs/read-api.md",
        "At most the newest {} snapshots",
        "src/web/lookup.rs",
        "SEARCHED",
        As::Number,
    ),
    (
        "docs/operations.md",
        "at most {} snapshots per second",
        "src/snapshot/recorder_context.rs",
        "WRITES_PER_SECOND",
        As::Number,
    ),
    (
        "docs/operations.md",
        "The file is read every {} seconds",
        "src/run/outbound.rs",
        "CA_FILE",
        As::Seconds,
    ),
    (
        "docs/troubleshooting.md",
        "more than {} Environments are visible",
        "src/delivery/followed_environments.rs",
        "MAX_ENVIRONMENTS",
        As::Number,
    ),
    (
        "docs/troubleshooting.md",
        "has waited for more than {} seconds for its turn",
        "src/delivery/setting_state.rs",
        "OVERDUE",
        As::Seconds,
    ),
    (
        "docs/troubleshooting.md",
        "no answer in {} seconds",
        "src/http/config.rs",
        "TIMEOUT",
        As::Seconds,
    ),
    (
        "docs/troubleshooting.md",
        "were not sent, the newest first, at most {}.",
        "src/delivery/message_history.rs",
        "SKIPPED_RANGES",
        As::Number,
    ),
    (
        "docs/troubleshooting.md",
        "will not be sent again, the newest first, at most {}.",
        "src/delivery/message_history.rs",
        "DEAD_LETTERS",
        As::Number,
    ),
    (
        "docs/slack.md",
        "at most {} characters",
        "src/message/slack/block.rs",
        "MAX_PLAIN",
        As::Number,
    ),
    (
        "docs/read-api.md",
        "and remembers the answer for {} s",
        "src/web/token_cache.rs",
        "REMEMBERED",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "One object may have {} MiB of JSON",
        "src/cluster/list_page.rs",
        "MAX_OBJECT",
        As::MiB,
    ),
    (
        "docs/operations.md",
        "the head of a request | {} KiB and 64 headers",
        "src/web/server.rs",
        "HEAD",
        As::KiB,
    ),
    (
        "docs/operations.md",
        "the head of a request | 16 KiB and {} headers",
        "src/web/server.rs",
        "HEADERS",
        As::Number,
    ),
    (
        "docs/operations.md",
        "TokenReviews | {} a second for tokens of known readers",
        "src/web/access.rs",
        "PER_SECOND",
        As::Number,
    ),
    (
        "docs/operations.md",
        "keeps at most {} KiB for it of what is sent",
        "src/web/server.rs",
        "SEND_BUFFER",
        As::KiB,
    ),
    (
        "docs/operations.md",
        "and {} KiB of what is received",
        "src/web/server.rs",
        "RECEIVE_BUFFER",
        As::KiB,
    ),
    (
        "docs/operations.md",
        "a part of it at least every {} s",
        "src/web/server.rs",
        "STALL",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "and all of it within {} s; otherwise",
        "src/web/server.rs",
        "ANSWER",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "| {} at once, and 8 from one address",
        "src/web/request_limits.rs",
        "READ_API",
        As::Number,
    ),
    (
        "docs/operations.md",
        "| 16 at once, and {} from one address",
        "src/web/request_limits.rs",
        "READ_API_OF_ADDRESS",
        As::Number,
    ),
    (
        "docs/operations.md",
        "have at most {} MiB together",
        "src/web/request_limits.rs",
        "LARGE_ANSWERS",
        As::MiB,
    ),
    (
        "docs/operations.md",
        "requests to `/metrics` | {} at once",
        "src/web/request_limits.rs",
        "METRICS",
        As::Number,
    ),
    (
        "docs/operations.md",
        "Of the others at most {} a second",
        "src/web/access.rs",
        "OF_ADDRESS",
        As::Number,
    ),
    (
        "docs/operations.md",
        "Of a pod at most {} KiB of labels",
        "src/cluster/pod_view.rs",
        "MAX_LABELS",
        As::KiB,
    ),
    (
        "SECURITY.md",
        "A pod can take {} KiB for labels",
        "src/cluster/pod_view.rs",
        "MAX_LABELS",
        As::KiB,
    ),
    (
        "docs/read-api.md",
        "takes nothing of an answer for {} s",
        "src/web/server.rs",
        "STALL",
        As::Seconds,
    ),
    (
        "docs/read-api.md",
        "takes longer than {} s for all of it",
        "src/web/server.rs",
        "ANSWER",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "a complete list every {} minutes",
        "src/config.rs",
        "#[arg(long, default_value = \"",
        As::Minutes,
    ),
    (
        "docs/operations.md",
        "and waits {} seconds for it",
        "src/config.rs",
        "SHIPBELL_TEST_TIMEOUT\", default_value = \"",
        As::Seconds,
    ),
    (
        "docs/webhooks.md",
        "bytes of the answer that are read | {} |",
        "src/http/response.rs",
        "ANSWER_READ",
        As::Plain,
    ),
];

/// The value of a constant, or what stands after a text: a number, a shift, a product or a time, in its smallest unit.
fn value(source: &str, name: &str) -> Option<u64> {
    let constant = name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let text = if constant {
        let at = source.find(&format!("const {name}: "))?;
        source[at..].split_once(" = ")?.1.split(';').next()?
    } else {
        let rest = source.split_once(name)?.1;
        rest.split([')', '"']).next()?
    };
    let (unit, text) = match text.split_once("from_") {
        Some((_, call)) => {
            let (unit, argument) = call.split_once('(')?;
            let seconds = match unit {
                "secs" => 1,
                "mins" => 60,
                "hours" => 3_600,
                _ => return None,
            };
            (seconds, argument.trim_end_matches(')'))
        }
        None => match text.strip_suffix(|c: char| "smh".contains(c)) {
            Some(number) if text.ends_with('m') => (60, number),
            Some(number) if text.ends_with('h') => (3_600, number),
            Some(number) => (1, number),
            None => (1, text),
        },
    };
    let number = |text: &str| text.trim().replace('_', "").parse::<u64>().ok();
    let product = |text: &str| text.split('*').map(number).product::<Option<u64>>();
    let value = match text.split_once("<<") {
        Some((left, right)) => number(left)? << number(right)?,
        None => product(text)?,
    };
    Some(unit * value)
}

/// With a comma before each three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The file, or the one of a folder that has the constant.
fn source(path: &str, name: &str) -> String {
    let path = crate::root().join(path);
    if path.is_file() {
        return fs::read_to_string(path).unwrap();
    }
    let files = fs::read_dir(&path).unwrap();
    let has = |text: &String| text.contains(&format!("const {name}: "));
    let texts = files.filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok());
    let mut texts = texts.filter(has);
    let text = texts.next().unwrap_or_default();
    assert!(
        texts.next().is_none(),
        "{name} is twice in {}",
        path.display()
    );
    text
}

#[test]
fn what_the_pages_say_of_limits_and_times_is_what_the_source_says() {
    let mut wrong = vec![];
    for (page, sentence, path, name, unit) in STATEMENTS {
        let Some(value) = value(&source(path, name), name) else {
            wrong.push(format!("{path} has no {name} (for {page}: {sentence:?})"));
            continue;
        };
        let divisor = match unit {
            As::Number | As::Plain | As::Seconds => 1,
            As::Minutes => 60,
            As::Hours => 3_600,
            As::KiB => 1 << 10,
            As::MiB => 1 << 20,
        };
        assert_eq!(value % divisor, 0, "{path}: {name}");
        let written = match unit {
            As::Plain => value.to_string(),
            _ => grouped(value / divisor),
        };
        let sentence = sentence.replace("{}", &written);
        // A sentence may go on on the next line.
        let text = file(page).split_whitespace().collect::<Vec<_>>().join(" ");
        if !text.contains(&sentence) {
            wrong.push(format!(
                "{page} does not say {sentence:?}, as {name} in {path} does"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn constants_are_read_as_they_are_written() {
    for (text, expected) in [
        ("const A: usize = 1_024;", 1_024),
        ("pub const A: u64 = 32 << 20;", 33_554_432),
        (
            "const A: Duration = Duration::from_secs(72 * 3600);",
            259_200,
        ),
        ("const A: Duration = Duration::from_mins(5);", 300),
        ("const A: Duration = Duration::from_hours(1);", 3_600),
    ] {
        assert_eq!(value(text, "A"), Some(expected), "{text}");
    }
    assert_eq!(value("or(spec.max, 30),", "or(spec.max, "), Some(30));
    assert_eq!(
        value("default_value = \"30m\"", "default_value = \""),
        Some(1_800)
    );
    assert_eq!(value("const B: usize = 1;", "A"), None);
    assert_eq!(grouped(1_234_567), "1,234,567");
    assert_eq!(grouped(15), "15");
}

#[test]
fn the_memory_limit_in_the_pages_is_that_of_the_chart() {
    let objects = rendered(&[]);
    let deployment = crate::helm::find(&objects, "Deployment", "shipbell");
    let limit =
        &deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"];
    let mib = limit.as_str().unwrap().strip_suffix("Mi").unwrap();
    let page = file("docs/operations.md");
    assert!(
        page.contains(&format!("The chart's limit is {mib} MiB.")),
        "{mib}"
    );
}
