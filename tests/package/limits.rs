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

/// Numbers as they are written in letters.
pub(crate) const WORDS: [&str; 11] = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
];

/// A sentence of a page in which `{}` stands for the constant, and where that is.
type Statement = (&'static str, &'static str, &'static str, &'static str, As);

const STATEMENTS: &[Statement] = &[
    (
        "docs/troubleshooting.md",
        "A replay is of at most {} snapshots",
        "src/delivery/replay.rs",
        "SNAPSHOTS",
        As::Number,
    ),
    (
        "docs/troubleshooting.md",
        "snapshots and {} events. To Slack",
        "src/delivery/replay.rs",
        "EVENTS",
        As::Number,
    ),
    (
        "docs/troubleshooting.md",
        "it is looked for in {} snapshots",
        "src/delivery/replay.rs",
        "SEARCHED",
        As::Number,
    ),
    (
        "docs/troubleshooting.md",
        "snapshots and {} events, divided evenly",
        "src/delivery/replay.rs",
        "EVENTS_SEARCHED",
        As::Number,
    ),
    (
        "docs/operations.md",
        "its Lease runs out after {} seconds",
        "src/leader/lease.rs",
        "TERM",
        As::Number,
    ),
    (
        "docs/operations.md",
        "stops recording and sending {} seconds after its last renewal",
        "src/leader/lease.rs",
        "DEADLINE",
        As::Number,
    ),
    (
        "docs/operations.md",
        "for at most {} s, and gives the Lease back",
        "src/run.rs",
        "GRACE",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "the leader reads and writes it every {} seconds",
        "src/leader/election.rs",
        "RENEW",
        As::Number,
    ),
    (
        "charts/shipbell/values.yaml",
        "limits: memory: {}Mi",
        "tests/archive/attack.rs",
        "LIMIT",
        As::MiB,
    ),
    (
        "docs/operations.md",
        "log lines name them, at most {} a second",
        "src/cluster/watch.rs",
        "WARNINGS_PER_SECOND",
        As::Number,
    ),
    (
        "docs/operations.md",
        "may have all places, and {} large answers",
        "src/web/request_limits.rs",
        "LARGE_BEHIND_PROXY",
        As::Number,
    ),
    (
        "docs/operations.md",
        "4 at once, and {} from one address; 5 s each",
        "src/web/request_limits.rs",
        "METRICS_OF_ADDRESS",
        As::Number,
    ),
    (
        "docs/operations.md",
        "the first {} bits",
        "src/web/client_address.rs",
        "IPV6_PREFIX",
        As::Number,
    ),
    (
        "docs/operations.md",
        "ones that wait to be sent take {} MiB",
        "src/web/request_limits.rs",
        "LARGE_ANSWERS",
        As::MiB,
    ),
    (
        "docs/operations.md",
        "One of more than {} MiB is sent alone",
        "src/web/request_limits.rs",
        "LARGE_ANSWERS",
        As::MiB,
    ),
    (
        "docs/operations.md",
        "gets 503 after the {} s. One",
        "src/web/request_limits.rs",
        "READ_API_DEADLINE",
        As::Seconds,
    ),
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
        "read than {} KiB of a TLS handshake",
        "src/http/connection.rs",
        "HANDSHAKE",
        As::KiB,
    ),
    (
        "SECURITY.md",
        "handshake and {} KiB for each request",
        "src/http/connection.rs",
        "ANSWER",
        As::KiB,
    ),
    (
        "docs/webhooks.md",
        "sends by itself included | {} KiB",
        "src/http/connection.rs",
        "ANSWER",
        As::KiB,
    ),
    (
        "docs/webhooks.md",
        "and {} s for the TLS handshake",
        "src/http/client.rs",
        "HANDSHAKE",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "of its body; {} KiB in all",
        "src/http/connection.rs",
        "ANSWER",
        As::KiB,
    ),
    (
        "docs/operations.md",
        "has failed only when its {} s are over",
        "src/http/config.rs",
        "TIMEOUT",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "closed after 30 s or {} KiB that nobody asked for",
        "src/http/connection.rs",
        "UNASKED",
        As::KiB,
    ),
    (
        "docs/operations.md",
        "16 for one namespace, and {} with one host",
        "src/http/client.rs",
        "HANDSHAKES_WITH_ONE",
        As::Number,
    ),
    (
        "docs/webhooks.md",
        "head of the answer | {} KiB",
        "src/http/connection.rs",
        "HEAD",
        As::KiB,
    ),
    (
        "docs/webhooks.md",
        "TLS handshake | {} KiB",
        "src/http/connection.rs",
        "HANDSHAKE",
        As::KiB,
    ),
    (
        "docs/webhooks.md",
        "idle connections | {} in all",
        "src/http/client.rs",
        "IDLE_TOTAL",
        As::Number,
    ),
    (
        "docs/webhooks.md",
        "in all, each for {} s",
        "src/http/client.rs",
        "IDLE",
        As::Seconds,
    ),
    (
        "docs/webhooks.md",
        "certificates, and at most {} of these beside",
        "src/http/client.rs",
        "INTERMEDIATES",
        As::Number,
    ),
    (
        "docs/operations.md",
        "16 KiB, and {} certificates beside",
        "src/http/client.rs",
        "INTERMEDIATES",
        As::Number,
    ),
    (
        "docs/operations.md",
        "what is read of them, for at most {} s",
        "src/http/client.rs",
        "HANDSHAKE",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "so {} handshakes are under way at once",
        "src/http/client.rs",
        "HANDSHAKES",
        As::Number,
    ),
    (
        "docs/operations.md",
        "at once, {} for one namespace",
        "src/http/client.rs",
        "HANDSHAKES_OF_NAMESPACE",
        As::Number,
    ),
    (
        "docs/operations.md",
        "a TLS handshake | {} KiB",
        "src/http/connection.rs",
        "HANDSHAKE",
        As::KiB,
    ),
    (
        "docs/operations.md",
        "an answer | {} KiB of its head",
        "src/http/connection.rs",
        "HEAD",
        As::KiB,
    ),
    (
        "docs/operations.md",
        "of its head, {} KiB of its body",
        "src/http/response.rs",
        "ANSWER_READ",
        As::KiB,
    ),
    (
        "docs/operations.md",
        "before it is read | {} KiB",
        "src/http/connection.rs",
        "RECEIVE_BUFFER",
        As::KiB,
    ),
    (
        "docs/operations.md",
        "idle connections | {} in all",
        "src/http/client.rs",
        "IDLE_TOTAL",
        As::Number,
    ),
    (
        "docs/operations.md",
        "and is closed after {} s or 4 KiB",
        "src/http/client.rs",
        "IDLE",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "at most {} requests at once, so",
        "src/http/config.rs",
        "    total: ",
        As::Number,
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
        "A client has {} s to take the rest",
        "src/web/server.rs",
        "CLOSE",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "their pages | {} of the 16",
        "src/web/request_limits.rs",
        "LARGE",
        As::Number,
    ),
    (
        "docs/operations.md",
        "| 8 of the {}, and one of each address",
        "src/web/request_limits.rs",
        "READ_API",
        As::Number,
    ),
    (
        "docs/operations.md",
        "others wait for {} s before they take a place",
        "src/web/request_limits.rs",
        "LARGE_QUEUE",
        As::Seconds,
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
        "bytes of the answer's body that are read | {} |",
        "src/http/response.rs",
        "ANSWER_READ",
        As::Plain,
    ),
    (
        "README.md",
        "or {} second of events per setting",
        "src/delivery/ack_window.rs",
        "WINDOW_TIME",
        As::Seconds,
    ),
    (
        "SECURITY.md",
        "for more than {} hour by one `Retry-After`",
        "src/http/response.rs",
        "LONGEST_RETRY_AFTER",
        As::Hours,
    ),
    (
        "SECURITY.md",
        "({}, and 8081 with",
        "src/config.rs",
        "SHIPBELL_LISTEN\", default_value = \"[::]:",
        As::Plain,
    ),
    (
        "SECURITY.md",
        "(8080, and {} with",
        "src/config.rs",
        "SHIPBELL_API_LISTEN\", default_value = \"[::]:",
        As::Plain,
    ),
    (
        "docs/argocd.md",
        "for up to {} minutes while something",
        "src/delivery/conditions.rs",
        "PATIENCE",
        As::Minutes,
    ),
    (
        "docs/argocd.md",
        "… for {} minutes |",
        "src/delivery/conditions.rs",
        "PATIENCE",
        As::Minutes,
    ),
    (
        "docs/argocd.md",
        "and after {} minutes *Degraded*",
        "src/delivery/conditions.rs",
        "PATIENCE",
        As::Minutes,
    ),
    (
        "docs/compliance.md",
        "`grace` ({}m)",
        "src/compliance/artifact_rules.rs",
        ".grace\n            .map_or(",
        As::Minutes,
    ),
    (
        "docs/compliance.md",
        "`recoveryWindow` ({}m)",
        "src/compliance/artifact_rules.rs",
        "window.map_or(",
        As::Minutes,
    ),
    (
        "docs/compliance.md",
        "differ in more than {} ways",
        "src/compliance/artifact_rules.rs",
        "CONTAINERS",
        As::Number,
    ),
    (
        "docs/compliance.md",
        "With more than {} at once",
        "src/compliance/artifact_rules.rs",
        "CONTAINERS",
        As::Number,
    ),
    (
        "docs/compliance.md",
        "only, {} of a namespace",
        "src/snapshot/unrecorded.rs",
        "GONE",
        As::Number,
    ),
    (
        "docs/compliance.md",
        "of a namespace ({} of an environment)",
        "src/snapshot/unrecorded.rs",
        "MOST",
        As::Number,
    ),
    (
        "docs/compliance.md",
        "the log remembers {} (",
        "src/snapshot/assessment.rs",
        "UNCOUNTED",
        As::Number,
    ),
    (
        "docs/compliance.md",
        "all of the last {} hours",
        "src/snapshot/assessment.rs",
        "LATELY",
        As::Hours,
    ),
    (
        "docs/environments.md",
        "of labels that take more than {} KiB",
        "src/cluster/pod_view.rs",
        "MAX_LABELS",
        As::KiB,
    ),
    (
        "docs/environments.md",
        "`settle.rollout` less {} minute,",
        "src/snapshot/settle.rs",
        "CLOCKS",
        As::Minutes,
    ),
    (
        "docs/environments.md",
        "and at least {} minute.",
        "src/snapshot/settle.rs",
        "CLOCKS",
        As::Minutes,
    ),
    (
        "docs/environments.md",
        "up to {} different times of deletion",
        "src/api/snapshot.rs",
        "MAX_ENDED_AT",
        As::Number,
    ),
    (
        "docs/environments.md",
        "at most {} KiB of names, images",
        "src/cluster/pod_view.rs",
        "MAX_CONTAINERS",
        As::KiB,
    ),
    (
        "docs/environments.md",
        "with {} bytes for each container",
        "src/cluster/pod_view.rs",
        "CONTAINER",
        As::Number,
    ),
    (
        "docs/environments.md",
        "in more than {} workloads at once",
        "src/api/snapshot.rs",
        "MAX_WORKLOADS",
        As::Number,
    ),
    (
        "docs/environments.md",
        "`settle.quiet` below {}s",
        "src/snapshot/state/plan.rs",
        "from_millis(100)..=",
        As::Seconds,
    ),
    (
        "docs/environments.md",
        "One environment gets at most {} snapshot per second",
        "src/snapshot/state/plan.rs",
        "from_millis(100)..=",
        As::Seconds,
    ),
    (
        "docs/environments.md",
        "at most one each {} ms,",
        "src/snapshot/state/plan.rs",
        "RangeInclusive<Duration> = ",
        As::Number,
    ),
    (
        "docs/environments.md",
        "stores each within {} ms.",
        "src/snapshot/state/plan.rs",
        "RangeInclusive<Duration> = ",
        As::Number,
    ),
    (
        "docs/environments.md",
        "720h by default, at least {}h.",
        "src/snapshot/retention.rs",
        "YOUNGEST",
        As::Hours,
    ),
    (
        "docs/environments.md",
        "minutes, and {} times as often while",
        "src/snapshot/pruning.rs",
        "wait = self.interval / ",
        As::Number,
    ),
    (
        "docs/environments.md",
        "younger than {} hour is removed",
        "src/snapshot/retention.rs",
        "YOUNGEST",
        As::Hours,
    ),
    (
        "docs/environments.md",
        "doubles with each check, up to {} minutes",
        "src/snapshot/retention.rs",
        "LONGEST_CUT_INTERVAL",
        As::Minutes,
    ),
    (
        "docs/environments.md",
        "in any case {} hours after",
        "src/snapshot/retention.rs",
        "MAX_AGE",
        As::Hours,
    ),
    (
        "docs/events.md",
        "non-compliant: ` and at most {} reasons",
        "src/snapshot/event.rs",
        "REASONS",
        As::Number,
    ),
    (
        "docs/events.md",
        "compliant: ` and at most {} things",
        "src/snapshot/event.rs",
        "REASONS",
        As::Number,
    ),
    (
        "docs/operations.md",
        "path on port {} |",
        "src/config.rs",
        "SHIPBELL_LISTEN\", default_value = \"[::]:",
        As::Plain,
    ),
    (
        "docs/operations.md",
        "from {} s on the watch counts as stale",
        "src/cluster/watch_progress.rs",
        "STALE",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "connections of a port | {}, and",
        "src/web/connections.rs",
        "            total: ",
        As::Number,
    ),
    (
        "docs/operations.md",
        "and {} from one address",
        "src/web/connections.rs",
        "            per_address: ",
        As::Number,
    ),
    (
        "docs/operations.md",
        "complete within {} s;",
        "src/web/server.rs",
        "            head: ",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "connection begins within {} s |",
        "src/web/server.rs",
        "            head: ",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "takes requests for {} s;",
        "src/web/server.rs",
        "            keep_alive: ",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "is sent within {} s more",
        "src/web/server.rs",
        "            finish: ",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "others wait for {} s,",
        "src/web/request_limits.rs",
        "READ_API_QUEUE",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "takes longer than {} s gets 503",
        "src/web/request_limits.rs",
        "READ_API_DEADLINE",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "from one address; {} s each",
        "src/web/request_limits.rs",
        "METRICS_DEADLINE",
        As::Seconds,
    ),
    (
        "docs/operations.md",
        "known readers, {} for others",
        "src/web/access.rs",
        "PER_SECOND",
        As::Number,
    ),
    (
        "docs/operations.md",
        "for others; {} at once",
        "src/web/access.rs",
        "AT_ONCE",
        As::Number,
    ),
    (
        "docs/operations.md",
        "for others; 4 at once, and {} from one address",
        "src/web/access.rs",
        "AT_ONCE_OF_ADDRESS",
        As::Number,
    ),
    (
        "docs/operations.md",
        "at most {} KiB of labels",
        "src/cluster/pod_view.rs",
        "MAX_LABELS",
        As::KiB,
    ),
    (
        "docs/operations.md",
        "[{} KiB of running containers]",
        "src/cluster/pod_view.rs",
        "MAX_CONTAINERS",
        As::KiB,
    ),
    (
        "docs/operations.md",
        "It listens on {} (health",
        "src/config.rs",
        "SHIPBELL_LISTEN\", default_value = \"[::]:",
        As::Plain,
    ),
    (
        "docs/operations.md",
        "with `externalUrl`, on {}.",
        "src/config.rs",
        "SHIPBELL_API_LISTEN\", default_value = \"[::]:",
        As::Plain,
    ),
    (
        "docs/operations.md",
        "reach that pod on port {},",
        "src/config.rs",
        "SHIPBELL_TEST_LISTEN\", default_value = \"[::]:",
        As::Plain,
    ),
    (
        "docs/read-api.md",
        "the port `api` ({})",
        "charts/shipbell/templates/service.yaml",
        "- name: api\n      port: ",
        As::Plain,
    ),
    (
        "docs/read-api.md",
        "on port {} of the pod",
        "src/config.rs",
        "SHIPBELL_API_LISTEN\", default_value = \"[::]:",
        As::Plain,
    ),
    (
        "docs/read-api.md",
        "`months` of {} days",
        "src/web/snapshot_expression.rs",
        "\"month\" => 24 * ",
        As::Number,
    ),
    (
        "docs/read-api.md",
        "(1 to {}, 15 by",
        "src/web/read_api.rs",
        "MAX_PER_PAGE",
        As::Number,
    ),
    (
        "docs/read-api.md",
        "100, {} by default)",
        "src/web/read_api.rs",
        "PER_PAGE",
        As::Number,
    ),
    (
        "docs/read-api.md",
        "took longer than {} s, or waited",
        "src/web/request_limits.rs",
        "READ_API_DEADLINE",
        As::Seconds,
    ),
    (
        "docs/slack.md",
        "When more than {} snapshots with",
        "src/delivery/next_message.rs",
        "DIGEST_AFTER",
        As::Number,
    ),
    (
        "docs/slack.md",
        "At most {} messages at once",
        "src/http/turns.rs",
        "BURST",
        As::Number,
    ),
    (
        "docs/troubleshooting.md",
        "condition `Reconciling` is True for the first {} minutes. When",
        "src/delivery/conditions.rs",
        "PATIENCE",
        As::Minutes,
    ),
    (
        "docs/troubleshooting.md",
        "It is noticed within {} seconds.",
        "src/delivery/setting_state.rs",
        "(Duration, Duration) = (Duration::from_secs(2), ",
        As::Seconds,
    ),
    (
        "docs/troubleshooting.md",
        "asks, at most {} hour.",
        "src/http/response.rs",
        "LONGEST_RETRY_AFTER",
        As::Hours,
    ),
    (
        "docs/troubleshooting.md",
        "afterwards. `Reconciling` is True for the first {} minutes.",
        "src/snapshot/environment_recorder.rs",
        "RECOVERING",
        As::Minutes,
    ),
    (
        "docs/troubleshooting.md",
        "frozen for less than {} minutes",
        "src/snapshot/environment_recorder.rs",
        "RECOVERING",
        As::Minutes,
    ),
    (
        "docs/troubleshooting.md",
        "an image runs under more than {} names",
        "src/compliance/artifact_rules.rs",
        "CONTAINERS",
        As::Number,
    ),
    (
        "docs/webhooks.md",
        "({} in `webhook.url`)",
        "src/api/notification_setting.rs",
        "\n        length(min = 1, max = ",
        As::Plain,
    ),
    (
        "docs/webhooks.md",
        "`approvals` hold the newest {},",
        "src/snapshot/assessment.rs",
        "NOTES",
        As::Number,
    ),
    (
        "docs/webhooks.md",
        "or the events of {} second,",
        "src/delivery/ack_window.rs",
        "WINDOW_TIME",
        As::Seconds,
    ),
    (
        "docs/webhooks.md",
        "as a date, up to {} hour.",
        "src/http/response.rs",
        "LONGEST_RETRY_AFTER",
        As::Hours,
    ),
    (
        "docs/webhooks.md",
        "but never beyond {} hour.",
        "src/http/response.rs",
        "LONGEST_RETRY_AFTER",
        As::Hours,
    ),
];

/// The value of a constant, or what stands after a text: a number, a shift, a product or a time, in its smallest unit.
fn value(source: &str, name: &str) -> Option<u64> {
    let constant = name
        .chars()
        .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    let text = if constant {
        let at = source.find(&format!("const {name}: "))?;
        source[at..].split_once(" = ")?.1.split(';').next()?
    } else {
        let rest = source.split_once(name)?.1;
        rest.split([')', '"', ',', '\n']).next()?
    };
    let (unit, text) = match text.split_once("from_") {
        Some((_, call)) => {
            let (unit, argument) = call.split_once('(')?;
            let seconds = match unit {
                // Milliseconds stand alone, as in `100 ms`.
                "secs" | "millis" => 1,
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

/// A sentence as it has to be in its page: with the number in digits, or in letters if the page has that.
fn sentence((page, sentence, path, name, unit): Statement) -> Result<String, String> {
    let value = value(&source(path, name), name)
        .ok_or_else(|| format!("{path} has no {name} (for {page}: {sentence:?})"))?;
    let divisor = match unit {
        As::Number | As::Plain | As::Seconds => 1,
        As::Minutes => 60,
        As::Hours => 3_600,
        As::KiB => 1 << 10,
        As::MiB => 1 << 20,
    };
    assert_eq!(value % divisor, 0, "{path}: {name}");
    let number = value / divisor;
    let digits = match unit {
        As::Plain => number.to_string(),
        _ => grouped(number),
    };
    let (digits, letters) = (
        sentence.replace("{}", &digits),
        usize::try_from(number)
            .ok()
            .and_then(|number| WORDS.get(number))
            .map(|word| sentence.replace("{}", word)),
    );
    // A sentence may go on on the next line.
    let text = file(page).split_whitespace().collect::<Vec<_>>().join(" ");
    match letters.filter(|_| !text.contains(&digits)) {
        Some(letters) if text.contains(&letters) => Ok(letters),
        _ if text.contains(&digits) => Ok(digits),
        _ => Err(format!(
            "{page} does not say {digits:?}, as {name} in {path} does"
        )),
    }
}

/// Of every true statement its page, the sentence, and where in it the number begins.
pub(crate) fn written() -> Vec<(&'static str, String, usize)> {
    let statements = STATEMENTS.iter().filter_map(|statement| {
        let number = statement.1.find("{}")?;
        Some((statement.0, sentence(*statement).ok()?, number))
    });
    statements.collect()
}

#[test]
fn what_the_pages_say_of_limits_and_times_is_what_the_source_says() {
    let wrong: Vec<String> = STATEMENTS
        .iter()
        .filter_map(|it| sentence(*it).err())
        .collect();
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
    let resources = &deployment["spec"]["template"]["spec"]["containers"][0]["resources"];
    let limit = resources["limits"]["memory"].as_str().unwrap();
    let mib = limit.strip_suffix("Mi").unwrap();
    let cpu = resources["requests"]["cpu"].as_str().unwrap();
    for (page, sentence) in [
        (
            "docs/operations.md",
            format!("The chart's limit is {mib} MiB."),
        ),
        ("docs/operations.md", format!("the chart requests {cpu} |")),
        ("SECURITY.md", format!("of the chart's {mib} MiB.")),
    ] {
        assert!(file(page).contains(&sentence), "{page}: {sentence}");
    }
}

#[test]
fn the_sizes_in_the_page_about_operations_are_those_that_were_measured() {
    let measured = file("docs/benchmarks.md");
    let figure = |row: &str| {
        let row = measured.lines().find_map(|line| {
            let line = line.strip_prefix("| ")?;
            line.strip_prefix(row)?.strip_prefix(" | ")
        });
        let cell = row.and_then(|row| row.split(" |").next());
        cell.unwrap_or_else(|| panic!("{row:?} was not measured"))
            .to_owned()
    };
    let number = |row: &str| {
        let figure = figure(row).replace(',', "");
        let number = figure.split(' ').next().unwrap().parse::<f64>();
        number.unwrap_or_else(|_| panic!("{row}: {figure}"))
    };
    let small = figure("memory (RSS) at 5,000 pods");
    let large = figure("memory at 150,000 pods");
    let record = number("memory for a provenance record") / 1_000.0;
    let page = file("docs/operations.md");
    for sentence in [
        format!("{small} at 5,000 pods, {large} at 150,000."),
        format!("Each provenance record adds about {record:.1} KB."),
    ] {
        assert!(page.contains(&sentence), "{sentence}");
    }
    // "About 50 µs": about so much at most, however many pods there are.
    for row in [
        "CPU for an event, 5,000 pods",
        "CPU for an event, 150,000 pods",
    ] {
        assert!((20.0..=55.0).contains(&number(row)), "{row}");
    }
    assert!(page.contains("about 50 µs for each change of a pod"));
}

#[test]
fn the_versions_in_the_readme_are_those_that_are_needed() {
    let between = |path: &str, begin: &str, end: char| {
        let text = file(path);
        let rest = text.split_once(begin).map(|(_, rest)| rest);
        let found = rest.and_then(|rest| rest.split(end).next());
        found
            .unwrap_or_else(|| panic!("{path}: {begin}"))
            .to_owned()
    };
    let oldest = between("charts/shipbell/Chart.yaml", "kubeVersion: \">=", '-');
    let tested = between("tests/kube/lib.rs", "KUBERNETES_VERSION: &str = \"v", '"');
    let minor = |version: &str| version.rsplit_once('.').unwrap().0.to_owned();
    let rust = between("Cargo.toml", "rust-version = \"", '"');
    let go = between("scripts/needs.sh", "lack \"Go ", ',');
    let go = go.split(' ').next().unwrap();
    let node = between("scripts/needs.sh", "lack \"Node.js ", ' ');
    let readme = file("README.md");
    let readme = readme.split_whitespace().collect::<Vec<_>>().join(" ");
    for sentence in [
        format!("Kubernetes {} or later", minor(&oldest)),
        format!("The tests run on Kubernetes {} only.", minor(&tested)),
        format!("Rust {rust} and a C compiler. For `make demo`: also Go {go}."),
        format!("also Python 3 with `venv`, and Node.js {node} with npm."),
    ] {
        assert!(readme.contains(&sentence), "{sentence}");
    }
}
