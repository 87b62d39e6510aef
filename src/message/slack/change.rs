//! The messages about artifacts: about one of them, about one workload, or a list.

use crate::{
    api::{compliance::ComplianceState, snapshot::Change},
    message::slack::{
        aggregate::{self, Count, Group, Move, NetArtifact, NetWorkload, SnapshotEvents, What},
        block::{Block, Message},
        layout::{
            AMBER, BLUE, GREEN, GREY, MAX_LINES, MAX_NAMED, NAME, RED, SnapshotRange, Style,
            bullets, date, names, plural, sentence,
        },
        text::{code, prose},
    },
};

/// At most this many fields before that of the workload; a section may have ten.
const MAX_FIELDS: usize = 8;
/// At most this much of an image's complete name.
const IMAGE: usize = 300;

/// The message about one artifact.
pub(crate) fn one(
    range: &SnapshotRange,
    artifact: &NetArtifact,
    snapshots: &[SnapshotEvents],
) -> Message {
    let (what, name) = (artifact.what(), aggregate::short(artifact.name));
    let mut headline = headline(range, what, artifact.count, &code(name, NAME));
    let fingerprint = |style: Style| style.fingerprint(artifact.fingerprint);
    let mut fields = vec![
        format!("*Image*\n{}", code(artifact.name, IMAGE)),
        format!("*Fingerprint*\n{}", fingerprint(Style::Marked)),
    ];
    let mut sentences = vec![
        format!("Image {}", prose(aggregate::tagged(artifact.name), NAME)),
        format!("fingerprint {}", fingerprint(Style::Plain)),
    ];
    if let Some((label, other)) = counterpart(artifact, snapshots) {
        if what == What::Stopped {
            // Without this it would read as if the workload did not run.
            headline += ", another version has taken its place";
        }
        let (name, fingerprint) = (aggregate::tagged(&other.name), &other.fingerprint);
        fields.push(format!(
            "*{label}*\n{} {}",
            Style::Marked.fingerprint(fingerprint),
            code(name, NAME)
        ));
        sentences.push(format!(
            "{} {} ({})",
            label.to_lowercase(),
            Style::Plain.fingerprint(fingerprint),
            prose(name, NAME)
        ));
    }
    if let Some(allowance) = artifact.allowance.filter(|_| what == What::Allowed) {
        let ends = allowance.expires_at.map_or("never".to_owned(), date);
        fields.push(format!("*Reason*\n{}", prose(&allowance.reason, 500)));
        fields.push(format!("*Entry*\n{}", code(&allowance.entry, NAME)));
        fields.push(format!("*Expires*\n{ends}"));
        sentences.push(format!("because “{}”", prose(&allowance.reason, 500)));
    }
    let workloads = artifact.workloads();
    if !workloads.is_empty() {
        let rolling = artifact.rolling() && what == What::Started;
        let (field, fact) = workload_field(&workloads, aggregate::size(artifact.more), rolling);
        fields.push(field);
        sentences.push(fact);
    }
    let text = format!(
        "{}. {}. {}",
        headline_text(range, what, artifact.count, &prose(name, NAME)),
        sentences.join(", "),
        range.tail()
    );
    let below = vec![Block::fields(fields), range.footer()];
    Message::new(text, Block::section(headline), color(range, what), below)
}

/// Finds the other side of a rollout that no event of this message reports: the artifact that replaces one that
/// stopped, or that is replaced by one that started. The rollout may have been so slow that its two ends are in two
/// snapshots, or the setting asks for only one type of event.
fn counterpart<'a>(
    artifact: &NetArtifact,
    snapshots: &[SnapshotEvents<'a>],
) -> Option<(&'static str, &'a Change)> {
    let what = artifact.what();
    let label = match what {
        What::Started => "Replaces",
        What::Stopped => "Replaced by",
        _ => return None,
    };
    let (image, workloads) = (aggregate::repository(artifact.name), artifact.workloads());
    snapshots
        .iter()
        .flat_map(|it| &it.snapshot.changes)
        .find(|change| {
            change.fingerprint != artifact.fingerprint
                && aggregate::repository(&change.name) == image
                && change.workloads.iter().any(|cell| {
                    let is_other_side = match what {
                        What::Started => cell.now < cell.was,
                        _ => cell.now > 0,
                    };
                    is_other_side && workloads.contains(&NetWorkload::of(cell))
                })
        })
        .map(|change| (label, change))
}

/// Makes the message about one workload, or about several with the same change. None if a list is clearer.
pub(crate) fn card(range: &SnapshotRange, group: &Group) -> Option<Message> {
    let first = group.moves.first()?;
    let is_rollout = group.moves.iter().any(|m| m.what == What::RolledOut);
    let alike = |m: &Move| m.what == first.what && m.count == first.count;
    let allowed = group.moves.iter().any(|m| m.artifact.allowed);
    if group.workloads.is_empty() || allowed || !(is_rollout || group.moves.iter().all(alike)) {
        return None;
    }
    let name = match &group.workloads[..] {
        [workload] => workload.name,
        _ => aggregate::short(first.artifact.name),
    };
    let what = if is_rollout {
        What::RolledOut
    } else {
        first.what
    };
    let (mut fields, mut facts) = (Vec::new(), Vec::new());
    for (artifact, what, count) in group.moves.iter().flat_map(sides) {
        let image = code(artifact.name, IMAGE);
        let tagged = prose(aggregate::tagged(artifact.name), NAME);
        let marked = Style::Marked.fingerprint(artifact.fingerprint);
        let plain = Style::Plain.fingerprint(artifact.fingerprint);
        let (now, from_to) = (instances(count.now), from_to(count));
        let (field, fact) = match what {
            _ if !is_rollout => (
                format!("*Image* {marked}"),
                format!("image {tagged}, fingerprint {plain}"),
            ),
            What::Started => (
                format!("*Running* {marked}\n{now}"),
                format!("{plain} ({tagged}) runs with {now}"),
            ),
            What::Stopped | What::StartedAndStopped => (
                format!("*Stopped* {marked}\n{from_to}"),
                format!("{plain} ({tagged}) stopped {from_to}"),
            ),
            _ => (
                format!("*Running* {marked}\n{now} {from_to}"),
                format!("{plain} ({tagged}) runs with {now} {from_to}"),
            ),
        };
        fields.push(format!("{field}\n{image}"));
        facts.push((fact, 1));
    }
    if fields.len() > MAX_FIELDS {
        let more = fields.len() - MAX_FIELDS;
        fields.truncate(MAX_FIELDS);
        fields.push(format!("… and {more} more {}", plural("image", more)));
    }
    let rolling = group.rolling && matches!(what, What::RolledOut | What::Started);
    let (field, fact) = workload_field(&group.workloads, group.more, rolling);
    fields.push(field);
    let mut headline = headline(range, what, first.count, &code(name, NAME));
    let mut sentence_start = headline_text(range, what, first.count, &prose(name, NAME));
    let mut color = color(range, what);
    if is_rollout && rolling {
        let (marked, plain, place) = (code(name, NAME), prose(name, NAME), &range.place);
        headline = format!("*:arrows_counterclockwise: Rolling out* {marked} in *{place}*");
        sentence_start = format!("{plain} is rolling out in {place}");
        color = if color == GREEN { AMBER } else { color };
    }
    let text = format!(
        "{sentence_start}: {}; {fact}. {}",
        sentence(&facts, 0),
        range.tail()
    );
    let below = vec![Block::fields(fields), range.footer()];
    Some(Message::new(text, Block::section(headline), color, below))
}

/// The one or two artifacts of a move, each with its own change.
fn sides<'a>(moved: &Move<'a>) -> impl Iterator<Item = (&'a NetArtifact<'a>, What, Count)> {
    let old = moved.old.map(|(old, count)| (old, What::Stopped, count));
    let what = match moved.what {
        What::RolledOut => What::Started,
        what => what,
    };
    [Some((moved.artifact, what, moved.count)), old]
        .into_iter()
        .flatten()
}

/// Makes the message about several workloads or images.
pub(crate) fn list(
    range: &SnapshotRange,
    artifacts: &[NetArtifact],
    groups: &[Group],
    within: &str,
) -> Message {
    let subject = subject(artifacts, groups);
    let (first, rest) = groups.split_at(groups.len().min(MAX_LINES));
    let more = rest.iter().map(Group::size).sum();
    let lines = |style: Style| -> Vec<_> {
        let line = |group: &Group| (line(style, group), group.size());
        first.iter().map(line).collect()
    };
    let place = &range.place;
    let headline = format!("*:package: {subject} changed* in *{place}*{within}");
    let mut text = format!("{subject} changed in {place}{within}");
    let mut below = vec![range.footer()];
    if !groups.is_empty() {
        below.insert(0, Block::section(bullets(&lines(Style::Marked), more)));
        text = format!(
            "{text} ({}): {}",
            tally(artifacts),
            sentence(&lines(Style::Plain), more)
        );
    }
    let text = format!("{text}. {}", range.tail());
    Message::new(text, Block::section(headline), GREY, below)
}

/// How many workloads, and images of which no workload is known.
fn subject(artifacts: &[NetArtifact], groups: &[Group]) -> String {
    let listed: usize = groups.iter().map(|group| group.workloads.len()).sum();
    let images = groups.iter().filter(|g| g.workloads.is_empty()).count();
    // It is not known which workloads a snapshot does not list: those of two artifacts may be the same.
    let whole = artifacts.iter().map(NetArtifact::size).max();
    let workloads = whole.unwrap_or_default().max(listed);
    let or_more = artifacts.len() > 1 && artifacts.iter().any(|artifact| artifact.more > 0);
    let plus = if or_more { "+" } else { "" };
    let some_images = format!("{images} {}", plural("image", images));
    let some_workloads = format!("{workloads}{plus} {}", plural("workload", workloads));
    match (listed, images) {
        (0, 0) => "Nothing".to_owned(),
        (0, _) => some_images,
        (_, 0) => some_workloads,
        _ => format!("{some_workloads} and {some_images}"),
    }
}

/// How many artifacts started, stopped, and so on.
fn tally(artifacts: &[NetArtifact]) -> String {
    let kinds: [(&[What], _); 6] = [
        (&[What::Started], "started"),
        (&[What::Stopped], "stopped"),
        (&[What::ScaledUp, What::ScaledDown], "scaled"),
        (&[What::Allowed], "allow-listed"),
        (&[What::Same], "as before"),
        (&[What::StartedAndStopped], "started and stopped again"),
    ];
    let mut tally = Vec::new();
    for (kind, word) in kinds {
        let is_of_kind = |artifact: &&NetArtifact| kind.contains(&artifact.what());
        let number = artifacts.iter().filter(is_of_kind).count();
        match (number, tally.len()) {
            (0, _) => {}
            (_, 0) => tally.push(format!("{number} {} {word}", plural("artifact", number))),
            _ => tally.push(format!("{number} {word}")),
        }
    }
    tally.join(", ")
}

/// One line of a list: which workloads, and what happened in them.
fn line(style: Style, group: &Group) -> String {
    let subject = match &group.workloads[..] {
        [] => {
            let image = group.moves.first().map(|moved| moved.artifact.name);
            style.name(aggregate::short(image.unwrap_or_default()), NAME)
        }
        workloads => {
            let paths: Vec<_> = workloads
                .iter()
                .map(|workload| format!("{}/{}", workload.namespace, workload.name))
                .collect();
            names(
                style,
                paths.iter().map(String::as_str),
                group.more,
                MAX_NAMED,
            )
        }
    };
    // The image is named unless the workload has the same name.
    let is_named = match (&group.workloads[..], &group.moves[..]) {
        ([], _) => false,
        ([workload], [moved]) => aggregate::short(moved.artifact.name) != workload.name,
        _ => true,
    };
    let first = group.moves.iter().take(MAX_NAMED);
    let first: Vec<_> = first.map(|moved| phrase(style, moved, is_named)).collect();
    let mut phrases = vec![first.join(", also ")];
    if group.moves.len() > MAX_NAMED {
        let more = group.moves.len() - MAX_NAMED;
        phrases.push(format!("and {more} more {}", plural("image", more)));
    }
    if group.rolling {
        phrases.push("still rolling out".to_owned());
    }
    format!("{subject} {}", phrases.join(", "))
}

fn phrase(style: Style, moved: &Move, is_named: bool) -> String {
    let side = |artifact: &NetArtifact, is_named: bool| {
        let fingerprint = style.fingerprint(artifact.fingerprint);
        let name = style.name(aggregate::short(artifact.name), 60);
        match is_named {
            true => format!("{name} {fingerprint}"),
            false => fingerprint,
        }
    };
    let (count, now) = (moved.count, instances(moved.count.now));
    let it = side(moved.artifact, is_named);
    let phrase = match (moved.what, &moved.old) {
        (What::RolledOut, Some((old, _))) => {
            let is_renamed = aggregate::short(old.name) != aggregate::short(moved.artifact.name);
            let (old, new) = if is_renamed {
                (side(old, true), side(moved.artifact, true))
            } else {
                (side(old, is_named), side(moved.artifact, false))
            };
            match style {
                Style::Marked => format!("rolled out {old} → {new}, {now}"),
                Style::Plain => format!("rolled out from {old} to {new}, {now}"),
            }
        }
        (What::RolledOut | What::Started, _) => format!("started {it}, {now}"),
        (What::Stopped, _) => format!("stopped {it} {}", from_to(count)),
        (What::ScaledUp, _) => format!("scaled up {it}, {now} {}", from_to(count)),
        (What::ScaledDown, _) => format!("scaled down {it}, {now} {}", from_to(count)),
        (What::Same, _) => format!("runs {it}, {now} as before"),
        (What::StartedAndStopped, _) => format!("started {it} and stopped it again"),
        (What::Allowed, _) => return format!("has {it} newly allow-listed"),
    };
    if moved.artifact.allowed {
        format!("{phrase}, newly allow-listed")
    } else {
        phrase
    }
}

/// The workloads as a field and in words.
fn workload_field(workloads: &[NetWorkload], more: usize, rolling: bool) -> (String, String) {
    let paths: Vec<_> = workloads.iter().map(NetWorkload::path).collect();
    let paths = || paths.iter().map(String::as_str);
    let label = plural("Workload", workloads.len() + more);
    let marked = names(Style::Marked, paths(), more, MAX_NAMED);
    let words = names(Style::Plain, paths(), more, MAX_NAMED);
    let (marked_end, words_end) = match rolling {
        true => ("\nstill rolling out", ", still rolling out"),
        false => ("", ""),
    };
    (
        format!("*{label}*\n{marked}{marked_end}"),
        format!("{} {words}{words_end}", label.to_lowercase()),
    )
}

fn headline(range: &SnapshotRange, what: What, count: Count, name: &str) -> String {
    let (icon, verb) = match what {
        What::RolledOut => (":white_check_mark:", "Rolled out"),
        What::Started => (":arrow_forward:", "Started"),
        What::Stopped => (":black_square_for_stop:", "Stopped"),
        What::ScaledUp => (":arrow_up_small:", "Scaled up"),
        What::ScaledDown => (":arrow_down_small:", "Scaled down"),
        What::Same => (":arrow_up_down:", "Scaled"),
        What::StartedAndStopped => (":black_square_for_stop:", "Started and stopped"),
        What::Allowed => (":ballot_box_with_check:", "Allow-listed"),
    };
    let (now, from_to, place) = (instances(count.now), from_to(count), &range.place);
    let sentence = match what {
        What::RolledOut | What::Allowed => String::new(),
        What::Started => format!(" — {now} started running {from_to}"),
        What::Stopped => format!(" — no instance is running {from_to}"),
        What::ScaledUp | What::ScaledDown => format!(" — {now} {from_to}"),
        What::Same => format!(" — {now} as before, spread differently"),
        What::StartedAndStopped => " — no instance is running, as before".to_owned(),
    };
    format!("*{icon} {verb}* {name} in *{place}*{sentence}")
}

/// The headline as words without markup.
fn headline_text(range: &SnapshotRange, what: What, count: Count, name: &str) -> String {
    let (now, from_to, place) = (instances(count.now), from_to(count), &range.place);
    match what {
        What::RolledOut => format!("{name} rolled out in {place}"),
        What::Started => format!("{name} started in {place}: {now} {from_to}"),
        What::Stopped => format!("{name} stopped in {place}: no instance is running {from_to}"),
        What::ScaledUp => format!("{name} scaled up in {place}: {now} {from_to}"),
        What::ScaledDown => format!("{name} scaled down in {place}: {now} {from_to}"),
        What::Same => format!("{name} scaled in {place}: {now} as before, spread differently"),
        What::StartedAndStopped => format!("{name} started and stopped again in {place}"),
        What::Allowed => format!("{name} was added to the allow-list of {place}"),
    }
}

fn color(range: &SnapshotRange, what: What) -> &'static str {
    match what {
        What::RolledOut | What::Started => match range.compliance {
            ComplianceState::NonCompliant => RED,
            ComplianceState::Compliant | ComplianceState::Unknown => GREEN,
        },
        What::Stopped | What::StartedAndStopped => GREY,
        What::ScaledUp | What::ScaledDown | What::Same | What::Allowed => BLUE,
    }
}

fn instances(number: i64) -> String {
    format!("{number} instance{}", if number == 1 { "" } else { "s" })
}

fn from_to(Count { was, now }: Count) -> String {
    format!("(from {was} to {now})")
}
