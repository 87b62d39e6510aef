//! What an environment's status says of its compliance: for people, from what the log and the newest judgements say.

use jiff::Timestamp;

use crate::{
    api::{
        condition::{COMPLIANT, Statement},
        environment::Finding,
        snapshot::{ComplianceState, VerdictReason},
    },
    snapshot::state::{EnvironmentProblem, EnvironmentSummary},
};

/// So many images are named in the message.
const NAMED: usize = 3;

/// The reasons in a status.
pub fn reasons(picture: &EnvironmentSummary) -> Vec<Finding> {
    let (troubles, _) = &picture.troubles;
    let reason = |trouble: &EnvironmentProblem| Finding {
        fingerprint: trouble.fingerprint.to_string(),
        name: trouble.name.clone(),
        reason: trouble.verdict.reason.as_str().to_owned(),
        message: trouble.verdict.message.clone(),
        grace_until: trouble.verdict.grace_until,
    };
    troubles.iter().map(reason).collect()
}

/// The condition `Compliant`.
pub fn statement(picture: &EnvironmentSummary) -> Statement {
    let compliance = &picture.compliance;
    let said = |status, reason, message: String| Statement {
        type_: COMPLIANT,
        status,
        reason,
        message,
    };
    if !picture.ruled {
        let message = "There are no rules: spec.compliance is not set.".to_owned();
        return said(None, "NoPolicy", message);
    }
    let (troubles, more) = &picture.troubles;
    let is_broken = |trouble: &&EnvironmentProblem| trouble.verdict.grace_until.is_none();
    let broken: Vec<&EnvironmentProblem> = troubles.iter().filter(is_broken).collect();
    let waiting: Vec<&EnvironmentProblem> = troubles.iter().filter(|it| !is_broken(it)).collect();
    let until = |end: Option<Timestamp>| {
        let whole = end.map(|end| Timestamp::from_second(end.as_second() + 1).unwrap_or(end));
        whole.map_or(String::new(), |end| format!(" until {end}"))
    };
    match compliance.state {
        ComplianceState::Compliant if waiting.is_empty() => said(
            Some(true),
            "Satisfied",
            "Everything that runs keeps the rules.".to_owned(),
        ),
        ComplianceState::Compliant => {
            let message = format!(
                "What is missing may still arrive{}: {}",
                until(compliance.pending_until),
                listed(&waiting, *more)
            );
            said(Some(true), "WaitingForEvidence", message)
        }
        ComplianceState::NonCompliant if compliance.raw == ComplianceState::Compliant => {
            let message = format!(
                "Nothing breaks the rules any more; Compliant if it stays so{}.",
                until(compliance.pending_until)
            );
            said(Some(false), "Recovering", message)
        }
        ComplianceState::NonCompliant => {
            let unidentified = VerdictReason::Unidentified.as_str();
            let reason = broken
                .first()
                .map_or(unidentified, |it| it.verdict.reason.as_str());
            let message = match broken.len() {
                0 => compliance.reasons.join("; "),
                _ => listed(&broken, *more),
            };
            said(Some(false), reason, message)
        }
        ComplianceState::Unknown => {
            let message = format!(
                "Not told yet: what is missing may still arrive{}: {}",
                until(compliance.pending_until),
                listed(&waiting, *more)
            );
            said(None, "WaitingForEvidence", message)
        }
    }
}

fn listed(troubles: &[&EnvironmentProblem], more: usize) -> String {
    let line =
        |trouble: &&EnvironmentProblem| format!("{}: {}", trouble.name, trouble.verdict.message);
    let mut lines: Vec<String> = troubles.iter().take(NAMED).map(line).collect();
    let more = more + troubles.len().saturating_sub(NAMED);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.join("; ")
}
