//! The messages for Slack, as functions of the snapshots that they report.
//!
//! A message has a headline and, beside a coloured bar, the details and a footer. Its `text` repeats everything in
//! sentences, for notifications and for screen readers. Names come from whoever may create a pod, so the module `text`
//! escapes and cuts every one of them.

mod aggregate;
mod block;
mod change;
mod layout;
mod text;

use crate::{
    api::{
        EventType,
        notification_setting::UnreportedGap,
        snapshot::{EnvironmentSnapshotSpec, Event},
    },
    message::{installation::Installation, unreported_gap},
};
pub use aggregate::SnapshotEvents;
use block::Block;
pub use block::{Message, plain};
use layout::{
    AMBER, GREEN, MAX_LINES, NAME, RED, SnapshotRange, Style, bullets, names, place, plural,
    sentence,
};
use text::{code, prose, prose_before_colon};

/// Makes the message about the artifacts of one snapshot, or of all parts of one that was split.
pub fn artifacts(origin: &Installation, snapshots: &[SnapshotEvents]) -> Message {
    let Some(range) = SnapshotRange::new(origin, snapshots) else {
        return nothing();
    };
    let artifacts = aggregate::artifacts(snapshots);
    // An artifact that was allow-listed and also started does not fit into one headline.
    if let [artifact] = &artifacts[..]
        && !(artifact.counted && artifact.allowed)
    {
        return change::one(&range, artifact, snapshots);
    }
    let groups = aggregate::groups(&artifacts);
    let card = match &groups[..] {
        [group] => change::card(&range, group),
        _ => None,
    };
    card.unwrap_or_else(|| change::list(&range, &artifacts, &groups, ""))
}

/// Makes the message about a backlog: the net change over consecutive snapshots. Snapshots without wanted events belong
/// to it as well, because their numbers count.
pub fn digest(origin: &Installation, snapshots: &[SnapshotEvents]) -> Message {
    let Some(range) = SnapshotRange::new(origin, snapshots) else {
        return nothing();
    };
    let artifacts = aggregate::artifacts(snapshots);
    let groups = aggregate::groups(&artifacts);
    change::list(&range, &artifacts, &groups, &range.within())
}

/// Makes the message about an event of the environment as a whole.
pub fn compliance(
    origin: &Installation,
    snapshot: &EnvironmentSnapshotSpec,
    event: &Event,
) -> Message {
    let range = SnapshotRange::of(origin, snapshot, snapshot);
    let compliance = &snapshot.compliance;
    let since = compliance
        .was_since
        .map(|since| snapshot.time.duration_since(since));
    let long = since
        .and_then(layout::long)
        .map(|long| format!(" for {long}"));
    let was = format!(
        "was {}{}",
        compliance.was.as_str(),
        long.unwrap_or_default()
    );
    // A header may have 150 characters.
    let title = text::plain(&place(origin, &snapshot.environment), 110);
    let is_again = event.type_ == EventType::EnvironmentCompliant;
    let reasons = match is_again {
        true => &compliance.resolved,
        false => &compliance.reasons,
    };
    let lines: Vec<_> = reasons.iter().map(|text| (prose(text, 250), 1)).collect();
    let reasons = format!("{} {}:", lines.len(), plural("reason", lines.len()));
    let again = "is Compliant again";
    let (icon, is, is_now, color, label) = match is_again {
        true => ("🟢", again, again, GREEN, "Resolved by:"),
        false => (
            "🔴",
            "is Non-Compliant",
            "is now Non-Compliant",
            RED,
            &*reasons,
        ),
    };
    let title = format!("{icon} {title} {is}");
    let mut text = format!("{icon} {} {is_now} ({was})", range.place);
    let mut section = format!("W{}.", &was[1..]);
    if !lines.is_empty() {
        text = format!("{text}: {}", sentence(&lines, 0));
        section = format!("{section} *{label}*\n{}", bullets(&lines, 0));
    }
    let text = format!("{text}. {}.", range.snapshots());
    let mut below = vec![Block::section(section)];
    below.extend(
        range
            .url
            .as_ref()
            .map(|url| Block::link("View snapshot", url)),
    );
    below.push(range.footer());
    Message::new(text, Block::header(title), color, below)
}

/// Makes the message that shows that `setting`, as namespace/name, reaches its channel.
pub fn test(origin: &Installation, setting: &str, environments: &[String]) -> Message {
    let list = |style| {
        let all = environments.iter().map(String::as_str);
        match all.len() {
            0 => "none yet".to_owned(),
            _ => names(style, all, 0, MAX_LINES),
        }
    };
    let label = plural("Environment", environments.len());
    let mut fields = vec![
        format!("*Setting*\n{}", code(setting, 2 * NAME)),
        format!("*{label}*\n{}", list(Style::Marked)),
    ];
    let mut from = String::new();
    if !origin.cluster.is_empty() {
        fields.push(format!("*Cluster*\n{}", code(&origin.cluster, NAME)));
        from = format!(" on cluster {}", prose(&origin.cluster, NAME));
    }
    let text = format!(
        "Test message: Shipbell{from} reaches this channel. NotificationSetting {}, {} {}.",
        prose(setting, 2 * NAME),
        label.to_lowercase(),
        list(Style::Plain)
    );
    let headline = "*:bell: Test message* — Shipbell reaches this channel".to_owned();
    let below = vec![Block::fields(fields)];
    Message::new(text, Block::section(headline), layout::BLUE, below)
}

/// Makes the message about snapshots that were removed before they could be delivered. `setting`: its namespace and name.
pub fn truncated(
    origin: &Installation,
    environment: &str,
    gap: &UnreportedGap,
    setting: (&str, &str),
) -> Message {
    let place = prose_before_colon(&place(origin, environment), NAME);
    let (what, why) = (unreported_gap::what(gap), unreported_gap::why());
    let command = unreported_gap::command(setting);
    let otherwise = "If nothing failed and nothing was suspended, increase the settle times so that fewer snapshots are recorded.";
    let headline = format!("*:warning: History lost* in *{place}* — {what}");
    let section = format!(
        "Their events are lost. Reason: {why}.\n{} shows why deliveries were late. {otherwise}",
        code(&command, 4 * NAME)
    );
    let snapshots = if gap.from == gap.to {
        format!("snapshot #{}", gap.from)
    } else {
        format!("snapshots #{}–#{}", gap.from, gap.to)
    };
    let footer = format!("*{place}* · {snapshots} · {}", layout::date(gap.time));
    let text = format!(
        "History lost in {place}: {what}. Reason: {why}. {} shows why deliveries were late. {otherwise}",
        prose(&command, 4 * NAME)
    );
    let below = vec![Block::section(section), Block::context(footer)];
    Message::new(text, Block::section(headline), AMBER, below)
}

/// The message for no snapshots at all. It is never sent.
fn nothing() -> Message {
    let text = "Nothing changed.".to_owned();
    let headline = Block::section(text.clone());
    let below = vec![Block::section(text.clone())];
    Message::new(text, headline, layout::GREY, below)
}

#[cfg(test)]
mod tests;
