//! No number in the pages stands by itself: it is a constant of the source (`limits`), a test holds it, or it is no limit.

use crate::{docs, file, limits};
use std::{collections::BTreeSet, fs, ops::Range, path::Path};

/// A sentence of a page, in which braces are around each number that a test holds, and that test. A number without braces is
/// held elsewhere.
type Held = (&'static str, &'static str, &'static str);

const HELD: &[Held] = &[
    (
        "docs/troubleshooting.md",
        "It begins anew within {a} minute",
        "a_task_that_panics_is_counted_and_told_of_and_starts_again_until_it_is_stopped",
    ),
    (
        "docs/operations.md",
        "wait for 5 s, then get {503}",
        "a_request_counts_until_its_answer_is_sent_and_further_ones_are_told_when_to_come_back",
    ),
    (
        "docs/operations.md",
        "together; the next one waits, and gets {503}",
        "large_answers_wait_until_there_is_room_and_a_larger_one_than_all_room_is_sent_alone",
    ),
    (
        "docs/operations.md",
        "They are made {one} at a time",
        "large_answers_are_made_one_at_a_time_and_one_for_each_address",
    ),
    (
        "README.md",
        "To build: Docker, or Rust {1.95} and a C compiler. For `make demo`: also Go {1.26}. For `make test`: also Python {3} with `venv`, and Node.js {20} with npm.",
        "the_versions_in_the_readme_are_those_that_are_needed",
    ),
    (
        "README.md",
        "Kubernetes {1.30} or later (the chart checks this). The tests run on Kubernetes {1.36} only.",
        "the_versions_in_the_readme_are_those_that_are_needed",
    ),
    (
        "docs/operations.md",
        "the next one leads within {2} seconds",
        "another_instance_leads_within_20_seconds_after_a_kill_and_within_1500_ms_after_a_release",
    ),
    (
        "SECURITY.md",
        "The ports of the kubelet ({10250}, {10255}) and of etcd ({2379}, {2380}) are always closed",
        "ports_of_the_kubelet_and_etcd_are_denied",
    ),
    (
        "docs/compliance.md",
        "(of those of {one} second, the last by name)",
        "the_newest_review_is_the_one_that_was_created_last_whatever_its_number",
    ),
    (
        "docs/environments.md",
        "gets {one} per `settle.quiet`, at most {one} each",
        "with_no_settle_times_everything_is_told_at_once_but_at_most_each_100_ms",
    ),
    (
        "docs/environments.md",
        "up to {4} MiB more",
        "other_changes_may_be_4_mib_ahead_of_those_that_take_the_whole_state",
    ),
    (
        "docs/operations.md",
        "answers {200} when",
        "what_may_not_be_read_freezes_what_depends_on_it_and_heals_by_itself",
    ),
    (
        "docs/operations.md",
        "otherwise {503} and the reason",
        "what_may_not_be_read_freezes_what_depends_on_it_and_heals_by_itself",
    ),
    (
        "docs/operations.md",
        "A request that takes longer than 20 s gets {503}",
        "a_request_that_takes_too_long_is_given_up_and_frees_its_place",
    ),
    (
        "docs/webhooks.md",
        "head of the answer | 16 KiB and {100} headers",
        "of_a_head_no_more_than_its_limit_is_read",
    ),
    (
        "docs/operations.md",
        "so {32} MiB for all connections of both ports",
        "the_connections_of_both_ports_take_at_most_32_mib_of_the_kernel",
    ),
    (
        "docs/operations.md",
        "{20.4} MiB at {5,000} pods, {85.5} MiB at {150,000}. Each provenance record adds about {1.8} KB",
        "the_sizes_in_the_page_about_operations_are_those_that_were_measured",
    ),
    (
        "SECURITY.md",
        "of the chart's {160} MiB",
        "the_memory_limit_in_the_pages_is_that_of_the_chart",
    ),
    (
        "docs/operations.md",
        "The chart's limit is {160} MiB",
        "the_memory_limit_in_the_pages_is_that_of_the_chart",
    ),
    (
        "docs/operations.md",
        "about {50} µs for each change of a pod",
        "the_sizes_in_the_page_about_operations_are_those_that_were_measured",
    ),
    (
        "docs/operations.md",
        "the chart requests {10}m",
        "the_memory_limit_in_the_pages_is_that_of_the_chart",
    ),
    (
        "docs/read-api.md",
        "take `page` (from {1}), `per_page` ({1} to",
        "a_malformed_query_is_refused_as_json_that_names_the_parameter_and_what_it_may_be",
    ),
    (
        "docs/read-api.md",
        "| {400} | a parameter",
        "a_malformed_query_is_refused_as_json_that_names_the_parameter_and_what_it_may_be",
    ),
    (
        "docs/read-api.md",
        "| {401} | there is no token",
        "every_link_of_a_payload_resolves_for_those_who_may_read_snapshots",
    ),
    (
        "docs/read-api.md",
        "| {403} | the token's user",
        "every_link_of_a_payload_resolves_for_those_who_may_read_snapshots",
    ),
    (
        "docs/read-api.md",
        "| {404} | there is no such thing",
        "every_link_of_a_payload_resolves_for_those_who_may_read_snapshots",
    ),
    (
        "docs/read-api.md",
        "| {405} | the method",
        "every_link_of_a_payload_resolves_for_those_who_may_read_snapshots",
    ),
    (
        "docs/read-api.md",
        "| {500} | the request met a defect",
        "a_panic_ends_one_request_and_is_counted",
    ),
    (
        "docs/read-api.md",
        "| {502} | the API server cannot be asked",
        "a_log_that_cannot_be_read_is_no_log_that_is_not_there",
    ),
    (
        "docs/read-api.md",
        "| {503} | too many requests",
        "a_request_counts_until_its_answer_is_sent_and_further_ones_are_told_when_to_come_back",
    ),
    (
        "docs/slack.md",
        "at once and then {one} per second",
        "a_slack_channel_gets_three_messages_at_once_and_then_one_a_second",
    ),
    (
        "docs/troubleshooting.md",
        "has asked for a pause ({429})",
        "every_status_has_its_class",
    ),
    (
        "docs/troubleshooting.md",
        "no answer in 15 seconds, or {408}",
        "every_status_has_its_class",
    ),
    (
        "docs/troubleshooting.md",
        "| {409}, {425} or 5xx, or Slack's own errors",
        "every_status_has_its_class",
    ),
    (
        "docs/troubleshooting.md",
        "| {429}, or Slack says",
        "every_status_has_its_class",
    ),
    (
        "docs/troubleshooting.md",
        "wants credentials ({407}; held)",
        "every_status_has_its_class",
    ),
    (
        "docs/troubleshooting.md",
        "`AuthRefused` | {401} or {403} |",
        "every_status_has_its_class",
    ),
    (
        "docs/troubleshooting.md",
        "`NotFound` | {404} |",
        "every_status_has_its_class",
    ),
    (
        "docs/troubleshooting.md",
        "`Gone` | {410}:",
        "every_status_has_its_class",
    ),
    (
        "docs/troubleshooting.md",
        "got the same refusal ({400}, {413}, {415}, {422})",
        "every_status_has_its_class",
    ),
    (
        "docs/troubleshooting.md",
        "because of its content: {400}, {413}, {415}, {422},",
        "every_status_has_its_class",
    ),
    (
        "docs/webhooks.md",
        "are sent to one setting in order, {one} at a time",
        "nothing_is_missing_and_everything_is_in_order_whatever_goes_wrong",
    ),
    (
        "docs/webhooks.md",
        "| {408}, {409}, {425}, {429}, 5xx;",
        "every_status_has_its_class",
    ),
    (
        "docs/webhooks.md",
        "after about 1 s, {2} s, {4} s … up to {5} minutes",
        "waits_double_from_a_second_to_five_minutes",
    ),
    (
        "docs/webhooks.md",
        "| {400}, {413}, {415}, {422} | moves this event",
        "every_status_has_its_class",
    ),
    (
        "docs/webhooks.md",
        "If {a} second, different event in a row gets the same answer",
        "one_refused_message_is_set_aside_and_a_second_with_the_same_answer_means_a_wrong_destination",
    ),
    (
        "docs/webhooks.md",
        "| {401}, {403}, {404}, other 4xx, any 3xx;",
        "every_status_has_its_class",
    ),
    (
        "docs/webhooks.md",
        "after about 30 s, {1} min … up to {10} minutes",
        "slow_waits_double_from_half_a_minute_to_ten_minutes",
    ),
    (
        "docs/webhooks.md",
        "| {410} | holds, and sends no event",
        "every_status_has_its_class",
    ),
    (
        "docs/webhooks.md",
        "Each waiting time is moved by up to {20} %",
        "waits_double_from_a_second_to_five_minutes",
    ),
    (
        "docs/webhooks.md",
        "Up to {20} % are added",
        "what_the_destination_asks_for_is_obeyed",
    ),
    (
        "docs/webhooks.md",
        "After {429} with `Retry-After` all settings",
        "too_many_pauses_the_destination_for_all_who_send_there",
    ),
];

/// A sentence of a page, in which braces are around each number that is no limit, time or default of Shipbell, and what it is.
const OTHER: &[Held] = &[
    (
        "docs/events.md",
        "`spec.startFrom: 17` | the first one of snapshot {17} or later",
        "an example",
    ),
    (
        "docs/operations.md",
        "each other replica reads it once per second: {60} requests per minute each",
        "one request per second, or two in two seconds",
    ),
    (
        "docs/operations.md",
        "knows a new snapshot about {a} second later",
        "the leader writes the status of an Environment that often",
    ),
    (
        "docs/operations.md",
        "may take more than {ten} times what is read",
        "48 bytes for each certificate of which 5 bytes are read, and what is allocated for it",
    ),
    (
        "docs/operations.md",
        "about {0.5} KB of JSON for an image without a provenance record, and {0.8} KB or more with one",
        "a measure, no limit",
    ),
    (
        "docs/operations.md",
        "{1,000} such pods take {16} MiB, and {4,000} take",
        "16 KiB times 1,000 and 4,000",
    ),
    (
        "SECURITY.md",
        "{4,000} such pods take {64} MiB",
        "16 KiB times 4,000",
    ),
    (
        "docs/compliance.md",
        "neither a pin nor {a} second digest",
        "which digest is meant, not how many",
    ),
    (
        "README.md",
        "the last {two} events",
        "rows of the table above",
    ),
    (
        "docs/argocd.md",
        "as in Argo CD {3}",
        "a version of Argo CD",
    ),
    (
        "docs/compliance.md",
        "`metadata.generation` is {1}, on Kubernetes {1.35} and later",
        "how Kubernetes counts, since when",
    ),
    (
        "docs/compliance.md",
        "the number {1} at its *first* edit. After an upgrade to {1.35}, replace pods that are older than the upgrade to {1.34}",
        "how Kubernetes counts, since when",
    ),
    (
        "docs/compliance.md",
        "R1 needs Kubernetes {1.35} or later",
        "how Kubernetes counts, since when",
    ),
    (
        "docs/compliance.md",
        "Before Kubernetes {1.35}, and with short names",
        "how Kubernetes counts, since when",
    ),
    (
        "docs/environments.md",
        "which is enough for about {60}",
        "a rule of thumb for the limit before it",
    ),
    (
        "docs/events.md",
        "{A} second name for an image",
        "not a time",
    ),
    (
        "docs/operations.md",
        "sends a sign of life about {every} minute",
        "what Kubernetes does",
    ),
    (
        "docs/operations.md",
        "`shipbell_leader` | gauge | | {1} while",
        "not a limit",
    ),
    (
        "docs/operations.md",
        "| gauge | `environment` | {1} while",
        "not a limit",
    ),
    ("docs/operations.md", "always {1} |", "not a limit"),
    (
        "docs/operations.md",
        "a snapshot of a change of one image is about {1} KB",
        "an estimate for planning",
    ),
    (
        "docs/operations.md",
        "A provenance record is {1} to {3} KB",
        "an estimate for planning",
    ),
    ("docs/read-api.md", "| number {7} |", "an example"),
    (
        "docs/webhooks.md",
        "| {1.2} and {1.3}, with",
        "versions of TLS, which the library speaks",
    ),
];

/// Pages whose numbers come from elsewhere: a test generates the fields, each row of the decision tables has a test of its
/// name in the source, and the benchmarks are what was measured.
const APART: [&str; 3] = [
    "docs/fields.md",
    "docs/decision-tables.md",
    "docs/benchmarks.md",
];

const UNITS: [&str; 14] = [
    "s", "ms", "m", "h", "second", "seconds", "minute", "minutes", "hour", "hours", "day", "days",
    "month", "months",
];
/// Words after which a number in letters is a limit.
const BEFORE: [&str; 11] = [
    "most", "least", "than", "to", "newest", "first", "last", "oldest", "within", "after", "every",
];
/// Words before which a number in letters is a rate.
const RATES: [&str; 4] = ["per", "a", "each", "at"];

/// The pages in which every number is looked for.
pub(crate) fn pages() -> Vec<String> {
    let documents = docs::files("docs", "md");
    let documents = documents.iter().map(|path| path.to_str().unwrap());
    let pages = ["README.md", "SECURITY.md"].into_iter().chain(documents);
    let pages = pages.filter(|page| !APART.contains(page));
    pages.map(str::to_owned).collect()
}

/// The page as limits are looked for in it: without blocks of code, headings and the numbers of lists, in one line.
fn text(page: &str) -> String {
    let page = file(page);
    let lines = docs::prose(&page).into_iter().filter_map(|line| {
        let line = line.trim();
        let listed = line.trim_start_matches(|c: char| c.is_ascii_digit());
        match listed.strip_prefix(". ") {
            Some(rest) => Some(rest),
            None => (!line.starts_with('#')).then_some(line),
        }
    });
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    words.join(" ")
}

/// Code within a line and the targets of links.
fn no_prose(text: &str) -> Vec<Range<usize>> {
    let mut ranges = vec![];
    for (begin, end) in [("`", "`"), ("](", ")"), ("]: ", " ")] {
        let mut at = 0;
        while let Some(found) = text[at..].find(begin) {
            let start = at + found + begin.len();
            let length = text[start..].find(end).unwrap_or(text.len() - start);
            ranges.push(start..start + length);
            at = (start + length + 1).min(text.len());
        }
    }
    ranges
}

/// Where a number begins that may be a limit, a time or a default.
fn numbers(text: &str) -> BTreeSet<usize> {
    let words: Vec<(usize, &str)> = text
        .split(' ')
        .scan(0, |at, word| {
            let start = *at;
            *at += word.len() + 1;
            Some((start, word))
        })
        .collect();
    let bare = |at: usize| {
        let word = words.get(at).map_or("", |(_, word)| *word);
        word.trim_matches(|c: char| !c.is_alphanumeric())
            .to_lowercase()
    };
    let mut found = BTreeSet::new();
    for (at, (start, word)) in words.iter().enumerate() {
        found.extend(digits(word).into_iter().map(|digit| start + digit));
        let (before, this, after) = (
            at.checked_sub(1).map(bare).unwrap_or_default(),
            bare(at),
            bare(at + 1),
        );
        let one = UNITS.contains(&after.as_str()) && !after.ends_with('s') && after.len() > 2;
        let limit = match this.as_str() {
            // "The first one" counts nothing.
            "one" => before == "most",
            _ => BEFORE.contains(&before.as_str()),
        };
        let rate = RATES.contains(&after.as_str()) && word.ends_with(char::is_alphanumeric);
        let counted = limits::WORDS[1..].contains(&this.as_str())
            && (UNITS.contains(&after.as_str()) || rate || limit);
        // "20 a second" is a rate.
        let of_rate = || {
            before.starts_with(|c: char| c.is_ascii_digit())
                || limits::WORDS.contains(&before.as_str())
        };
        let single = ["a", "an", "every", "each"].contains(&this.as_str()) && one && !of_rate();
        if counted || single {
            found.insert(*start);
        }
    }
    let apart = no_prose(text);
    found.retain(|at| !apart.iter().any(|range| range.contains(at)));
    found
}

/// Where numbers begin in a word that are no part of a name, as in `IPv4`, `SHA-256`, `5xx`, `R1`. Zero is no limit.
fn digits(word: &str) -> Vec<usize> {
    let mut found = vec![];
    let mut at = 0;
    while let Some(start) = word[at..].find(|c: char| c.is_ascii_digit()) {
        let start = at + start;
        let rest = &word[start..];
        let length = rest.find(|c: char| !c.is_ascii_digit() && c != ',' && c != '.');
        let end = start + length.unwrap_or(rest.len());
        let before = word[..start].trim_end_matches('-');
        let name = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let after = word[end..].split(|c: char| !c.is_alphabetic()).next();
        let unit = after.is_none_or(|after| after.is_empty() || UNITS.contains(&after));
        let zero = word[start..end].trim_end_matches([',', '.']) == "0";
        if !name && unit && !zero {
            found.push(start);
        }
        at = end;
    }
    found
}

/// Where a text stands in another one.
fn occurrences(text: &str, part: &str) -> Vec<Range<usize>> {
    let found = text.match_indices(part);
    found.map(|(at, _)| at..at + part.len()).collect()
}

/// A sentence without its braces, and where in it the numbers begin that were in them.
fn marked(sentence: &str) -> (String, Vec<usize>) {
    let mut parts = sentence.split('{');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    let mut numbers = vec![];
    for part in parts {
        numbers.push(plain.len());
        plain.extend(part.split('}'));
    }
    (plain, numbers)
}

/// The names of all tests of the repository.
pub(crate) fn tests() -> BTreeSet<String> {
    fn read(directory: &Path, names: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, names);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let source = fs::read_to_string(path).unwrap();
                for part in source.split("#[test]").skip(1) {
                    let name = part.split_once("fn ").map(|(_, rest)| rest);
                    let name = name.and_then(|rest| rest.split(['(', '<']).next());
                    names.extend(name.map(str::to_owned));
                }
                for part in source.split("#[tokio::test").skip(1) {
                    let name = part.split_once("fn ").map(|(_, rest)| rest);
                    let name = name.and_then(|rest| rest.split(['(', '<']).next());
                    names.extend(name.map(str::to_owned));
                }
            }
        }
    }
    let mut names = BTreeSet::new();
    for directory in ["src", "tests"] {
        read(&crate::root().join(directory), &mut names);
    }
    names
}

#[test]
fn every_number_in_the_pages_is_a_constant_or_is_held_by_a_test() {
    let tests = tests();
    assert!(tests.len() > 500, "{}", tests.len());
    let mut wrong = vec![];
    for (page, sentence, test) in HELD.iter().copied() {
        if !tests.contains(test) {
            wrong.push(format!("{page}: {sentence:?}: there is no test {test}"));
        }
    }
    let pages = pages();
    for (page, sentence, _) in HELD.iter().chain(OTHER) {
        if !pages.iter().any(|it| it == page) {
            wrong.push(format!("{page}: {sentence:?}: there is no such page"));
        }
    }
    for page in pages {
        let text = text(&page);
        let mut numbers = numbers(&text);
        for (_, sentence, number) in limits::written().into_iter().filter(|it| it.0 == page) {
            for range in occurrences(&text, &sentence) {
                numbers.remove(&(range.start + number));
            }
        }
        for (_, sentence, _) in HELD.iter().chain(OTHER).filter(|it| it.0 == page) {
            let (plain, marks) = marked(sentence);
            let places = occurrences(&text, &plain);
            let held = |mark: &usize| {
                let here = places.iter().map(|place| place.start + mark);
                here.filter(|at| numbers.remove(at)).count() > 0
            };
            if marks.is_empty() || !marks.iter().all(held) {
                wrong.push(format!(
                    "{page}: {sentence:?} names a number that is not there or does not need it"
                ));
            }
        }
        for at in numbers {
            let mut start = at.saturating_sub(60);
            while !text.is_char_boundary(start) {
                start -= 1;
            }
            let here: String = text[at..].chars().take(40).collect();
            wrong.push(format!("{page}: ...{}>>{here}...", &text[start..at]));
        }
    }
    assert!(
        wrong.is_empty(),
        "name the constant in limits.rs, or the test that holds it in numbers.rs: {wrong:#?}"
    );
}

#[test]
fn a_sentence_holds_only_the_numbers_in_braces() {
    let (plain, numbers) = marked("at most {5} of 7, {one} each");
    assert_eq!(
        (&*plain, numbers),
        ("at most 5 of 7, one each", vec![8, 16])
    );
}

#[test]
fn no_number_is_taken_for_code_because_a_backtick_is_missing() {
    let mut wrong = vec![];
    for page in pages() {
        let whole = file(&page);
        let fences = whole.lines().filter(|line| line.trim().starts_with("```"));
        if fences.count() % 2 == 1 {
            wrong.push(format!("{page}: a block of code has no end"));
        }
        let mut paragraphs = vec![String::new()];
        for line in docs::prose(&whole) {
            let line = line.trim();
            let item = line.trim_start_matches(|c: char| c.is_ascii_digit());
            if line.is_empty() || ["#", "|", "- ", ". "].iter().any(|it| item.starts_with(it)) {
                paragraphs.push(String::new());
            }
            let paragraph = paragraphs.last_mut().unwrap();
            paragraph.push_str(line);
        }
        let odd = |paragraph: &String| paragraph.matches('`').count() % 2 == 1;
        let odd = paragraphs.into_iter().filter(odd);
        wrong.extend(odd.map(|paragraph| format!("{page}: {paragraph}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn numbers_are_found_however_they_are_written() {
    for (text, expected) in [
        ("at most 32 events, 1,024 bytes", vec!["32", "1,024"]),
        ("| 720h by default | 18.6 MiB |", vec!["720h", "18.6"]),
        ("IPv4, SHA-256, v1.0, R1, 5xx, 6to4, 0", vec![]),
        ("`5s` and [a](b.md#2-c) of 3", vec!["3"]),
        ("more than five snapshots", vec!["five"]),
        (
            "for one hour, half an hour, each minute",
            vec!["one", "an", "each"],
        ),
        ("one after another; a second, different one", vec!["a"]),
        ("20 a second; then one per second", vec!["20", "one"]),
    ] {
        let found = numbers(text);
        let words = found
            .iter()
            .map(|at| text[*at..].split(' ').next().unwrap());
        let words: Vec<&str> = words
            .map(|word| word.trim_end_matches([',', ';', '.']))
            .collect();
        assert_eq!(words, expected, "{text}");
    }
}
