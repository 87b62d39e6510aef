//! What the messages have in common: place, snapshots, compliance and time; names, and lists of names.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{compliance::ComplianceState, snapshot::EnvironmentSnapshotSpec},
    message::{
        installation::Installation,
        slack::{
            aggregate::SnapshotEvents,
            block::Block,
            text::{self, code, prose, prose_before_colon},
        },
    },
};

pub(crate) const GREEN: &str = "#2EB67D";
pub(crate) const AMBER: &str = "#ECB22E";
pub(crate) const RED: &str = "#E01E5A";
pub(crate) const BLUE: &str = "#36C5F0";
pub(crate) const GREY: &str = "#8D8D8D";

/// At most this many lines of a list.
pub(crate) const MAX_LINES: usize = 10;
/// At most this many workloads are named in one place.
pub(crate) const MAX_NAMED: usize = 3;
/// At most this much of the name of a place, a workload or an image. Few are longer, and their beginnings differ.
pub(crate) const NAME: usize = 140;
/// At most this much for the lines of a section, which may have 3,000 characters.
const LINES: usize = 2_700;
/// At most this much for the same lines in `text`, which also has a beginning and an end.
const SENTENCE: usize = 2_000;

/// Where it happened: `cluster/environment`, or one name if both are the same.
pub(crate) fn place(origin: &Installation, environment: &str) -> String {
    let cluster = &origin.cluster;
    if cluster.is_empty() || cluster == environment {
        environment.to_owned()
    } else {
        format!("{cluster}/{environment}")
    }
}

/// The snapshots that a message is about: where they were recorded, which they are, and what the last one says.
pub(crate) struct SnapshotRange {
    /// The place, escaped for a sentence.
    pub(crate) place: String,
    /// The page of the last snapshot.
    pub(crate) url: Option<String>,
    pub(crate) compliance: ComplianceState,
    /// The numbers of the first and the last snapshot.
    indexes: (i64, i64),
    /// The time of the last one, and how much earlier the first one was.
    time: Timestamp,
    span: SignedDuration,
}

impl SnapshotRange {
    pub(crate) fn new(origin: &Installation, snapshots: &[SnapshotEvents]) -> Option<Self> {
        let (first, last) = (snapshots.first()?, snapshots.last()?);
        Some(Self::of(origin, first.snapshot, last.snapshot))
    }

    pub(crate) fn of(
        origin: &Installation,
        first: &EnvironmentSnapshotSpec,
        last: &EnvironmentSnapshotSpec,
    ) -> Self {
        Self {
            place: prose_before_colon(&place(origin, &last.environment), NAME),
            url: text::link(&origin.snapshot(&last.environment, last.index).html),
            compliance: last.compliance.state,
            indexes: (first.index, last.index),
            time: last.time,
            span: last.time.duration_since(first.time),
        }
    }

    pub(crate) fn footer(&self) -> Block {
        let (first, last) = self.indexes;
        let last_number = match &self.url {
            Some(url) => format!("<{url}|#{last}>"),
            None => format!("#{last}"),
        };
        let snapshots = if first == last {
            format!("snapshot {last_number}")
        } else {
            format!("snapshots #{first}–{last_number}")
        };
        let emoji = match self.compliance {
            ComplianceState::Compliant => ":white_check_mark:",
            ComplianceState::NonCompliant => ":red_circle:",
            ComplianceState::Unknown => ":white_circle:",
        };
        Block::context(format!(
            "*{}* · {snapshots} · {emoji} {} · {}",
            self.place,
            self.compliance.as_str(),
            date(self.time),
        ))
    }

    /// The snapshots in words.
    pub(crate) fn snapshots(&self) -> String {
        match self.indexes {
            (first, last) if first == last => format!("Snapshot #{last}"),
            (first, last) => format!("Snapshots #{first}–#{last}"),
        }
    }

    /// The last sentence of a `text`.
    pub(crate) fn tail(&self) -> String {
        let compliance = match self.compliance {
            ComplianceState::Unknown => "compliance unknown",
            known => known.word(),
        };
        format!("{}, {compliance}.", self.snapshots())
    }

    /// The time between the first and the last snapshot.
    pub(crate) fn within(&self) -> String {
        let long = long(self.span);
        long.map(|long| format!(" within {long}"))
            .unwrap_or_default()
    }
}

/// A length of time, rounded up; `None` for none.
pub(crate) fn long(span: SignedDuration) -> Option<String> {
    let (minute, hour, day) = (60, 60 * 60, 24 * 60 * 60);
    let seconds = span.as_secs();
    Some(match seconds {
        ..=0 => return None,
        1..=59 => format!("{seconds} s"),
        _ if seconds <= 59 * minute => format!("{} min", ceil(seconds, minute)),
        _ if seconds <= 47 * hour => format!("{} h", ceil(seconds, hour)),
        _ => format!("{} d", ceil(seconds, day)),
    })
}

/// A time, which Slack shows in the reader's time zone.
pub(crate) fn date(time: Timestamp) -> String {
    format!(
        "<!date^{}^{{date_short_pretty}} {{time_secs}}|{}>",
        time.as_second(),
        time.strftime("%Y-%m-%d %H:%M:%S UTC"),
    )
}

fn ceil(seconds: i64, unit: i64) -> i64 {
    seconds / unit + i64::from(seconds % unit != 0)
}

/// Whether names are written as inline code (for the blocks) or as words (for `text`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Marked,
    Plain,
}

impl Style {
    pub(crate) fn name(self, text: &str, max: usize) -> String {
        match self {
            Self::Marked => code(text, max),
            Self::Plain => prose(text, max),
        }
    }

    /// The first digits of a fingerprint.
    pub(crate) fn fingerprint(self, fingerprint: &str) -> String {
        let mut start: String = fingerprint.chars().take(12).collect();
        if self == Self::Marked && start.len() < fingerprint.len() {
            start.push('…');
        }
        self.name(&start, 30)
    }
}

/// At most `max` of the names, and the number of the others. `more` further ones have no name here.
pub(crate) fn names<'a>(
    style: Style,
    names: impl ExactSizeIterator<Item = &'a str>,
    more: usize,
    max: usize,
) -> String {
    let more = names.len().saturating_sub(max) + more;
    let shown: Vec<_> = names.take(max).map(|name| style.name(name, NAME)).collect();
    let shown = shown.join(", ");
    match more {
        0 => shown,
        _ => format!("{shown} and {more} more"),
    }
}

pub(crate) fn plural(word: &str, number: usize) -> String {
    format!("{word}{}", if number == 1 { "" } else { "s" })
}

/// As many lines of a list as fit, and the number of the others. Each line comes with the number of things that it
/// stands for; `more` things are in no line.
pub(crate) fn bullets(lines: &[(String, usize)], more: usize) -> String {
    let (shown, more) = shown(lines, more, LINES);
    let mut bullets: Vec<_> = shown.iter().map(|(line, _)| format!("• {line}")).collect();
    if more > 0 {
        bullets.push(format!("• … and {more} more"));
    }
    bullets.join("\n")
}

/// The same lines as a part of a sentence.
pub(crate) fn sentence(lines: &[(String, usize)], more: usize) -> String {
    let (shown, more) = shown(lines, more, SENTENCE);
    let mut items: Vec<_> = shown.iter().map(|(line, _)| line.clone()).collect();
    if more > 0 {
        items.push(format!("and {more} more"));
    }
    items.join("; ")
}

fn shown(lines: &[(String, usize)], more: usize, room: usize) -> (&[(String, usize)], usize) {
    let mut used = 0;
    let fits = lines.iter().take(MAX_LINES).take_while(|(line, _)| {
        used += text::units(line) + "• \\n".len();
        used <= room
    });
    let (shown, rest) = lines.split_at(fits.count());
    (
        shown,
        more + rest.iter().map(|(_, size)| size).sum::<usize>(),
    )
}
