//! The closed lists of reasons in an environment's conditions and Kubernetes Events, and a change of its compliance in
//! words.

use std::collections::BTreeMap;

use crate::{
    api::{
        compliance::ComplianceState,
        condition::{reasons as closed_list, shorten},
        snapshot::{Verdict, VerdictReason},
    },
    cluster::image::Fingerprint,
    snapshot::ledger::{ArtifactFacts, Ledger},
};

closed_list! {
    /// What a condition of an environment says if no `FrozenReason` and no `VerdictReason` says it.
    pub(crate) enum EnvironmentReason { Recording, Waiting, WaitingForEvidence, Recovering }
}

closed_list! {
    /// Why a Kubernetes Event is recorded on an environment.
    pub(crate) enum EnvironmentEventReason { NonCompliant, Compliant }
}

/// At most how many reasons are listed.
const REASONS: usize = 20;
/// At most how many characters a reason has.
const LONGEST: usize = 512;

/// Cuts a text to the length of its field.
pub fn cut(text: &mut String) {
    *text = shorten(text, LONGEST);
}

/// An artifact's name and the beginning of its digest.
fn title(ledger: &Ledger, fingerprint: Fingerprint) -> String {
    let digest = fingerprint.to_string();
    let name = ledger.names.get(&fingerprint).map_or("", String::as_str);
    format!("{name} ({})", &digest[..12])
}

/// Why an artifact that is not recorded violates the rules.
pub fn line(name: &str, fingerprint: Fingerprint, words: &str) -> String {
    let digest = fingerprint.to_string();
    format!("{name} ({}): {words}", &digest[..12])
}

/// Why an environment is not compliant: one line for each artifact, by name. `uncounted`: lines of what is not recorded.
pub fn reasons(
    ledger: &Ledger,
    broken: &[(Fingerprint, &Verdict)],
    uncounted: Vec<String>,
    unidentified: Option<i64>,
) -> Vec<String> {
    let mut lines: Vec<String> = broken
        .iter()
        .map(|(digest, verdict)| format!("{}: {}", title(ledger, *digest), verdict.message))
        .collect();
    lines.extend(uncounted);
    lines.sort_unstable();
    lines.extend(unidentified.map(unidentified_in_words));
    capped(lines)
}

/// What could not be identified, in words.
pub fn unidentified_in_words(count: i64) -> String {
    match count {
        1 => "1 container or pod that can't be identified".to_owned(),
        count => format!("{count} containers or pods that can't be identified"),
    }
}

/// Why an environment complies again: artifacts that violated the rules in `before` and no longer do.
pub fn resolved(
    before: &Ledger,
    after: &Ledger,
    now: &BTreeMap<Fingerprint, ArtifactFacts>,
) -> Vec<String> {
    let is_broken = |facts: &ArtifactFacts| {
        let verdict = facts.verdict.as_ref();
        verdict.is_some_and(|verdict| {
            verdict.state == ComplianceState::NonCompliant && verdict.grace_until.is_none()
        })
    };
    let mut lines = vec![];
    let was_broken = before.facts.iter().filter(|(_, facts)| is_broken(facts));
    for (fingerprint, _) in was_broken {
        let name = title(before, *fingerprint);
        let mended = now.get(fingerprint).filter(|facts| !is_broken(facts));
        if after.total(fingerprint) == 0 {
            lines.push(format!("{name} stopped"));
        } else if let Some(verdict) = mended.and_then(|facts| facts.verdict.as_ref()) {
            lines.push(match verdict.reason {
                VerdictReason::AllowListed | VerdictReason::ExceptionApplied => {
                    format!("{name}: {}", verdict.message)
                }
                VerdictReason::Satisfied => format!("{name} complies with the rules now"),
                _ => format!("{name}: waiting, {}", verdict.message),
            });
        }
    }
    if before.unidentified > 0 && after.unidentified == 0 {
        lines.push("every image can be identified".to_owned());
    }
    lines.sort_unstable();
    capped(lines)
}

/// Joins the first `named` of several lines, and says how many more there are.
pub fn first_few(
    lines: impl ExactSizeIterator<Item = String>,
    named: usize,
    more: usize,
) -> String {
    let more = more + lines.len().saturating_sub(named);
    let mut lines: Vec<String> = lines.take(named).collect();
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.join("; ")
}

fn capped(mut lines: Vec<String>) -> Vec<String> {
    if lines.len() > REASONS {
        let more = lines.len() - (REASONS - 1);
        lines.truncate(REASONS - 1);
        lines.push(format!("and {more} more"));
    }
    for line in &mut lines {
        cut(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{condition::documented, snapshot::Cause},
        snapshot::state::FrozenReason,
    };
    use std::collections::BTreeSet;

    #[test]
    fn the_documents_explain_exactly_the_reasons_that_are_written() {
        let of_environment = EnvironmentReason::ALL.iter().map(|it| it.as_str());
        let frozen = FrozenReason::ALL.iter().map(|it| it.as_str());
        let verdicts = VerdictReason::ALL.iter().map(|it| it.as_str());
        let conditions = of_environment.chain(frozen).chain(verdicts).collect();
        let mut explained = documented("Environment: Ready");
        explained.extend(documented("Environment: Compliant"));
        assert_eq!(explained, conditions);
        let events = EnvironmentEventReason::ALL.iter().map(|it| it.as_str());
        let explained = documented("Environment: Kubernetes Events");
        assert_eq!(explained, events.collect());
    }

    #[test]
    fn the_page_about_environments_explains_exactly_the_causes_of_snapshots() {
        let page = include_str!("../../docs/environments.md");
        let (_, table) = page
            .split_once("\n| cause | meaning |\n|---|---|\n")
            .unwrap();
        let row = |line: &'static str| line.strip_prefix("| `")?.split_once("` |");
        let explained: BTreeSet<&str> = table.lines().map_while(row).map(|(it, _)| it).collect();
        // What is none of them is told all that there are.
        let error = serde_json::from_str::<Cause>("\"\"").unwrap_err();
        let error = error.to_string();
        let (_, causes) = error.split_once("expected one of ").unwrap();
        let causes: BTreeSet<&str> = causes.split('`').skip(1).step_by(2).collect();
        assert_eq!(explained, causes);
    }
}
