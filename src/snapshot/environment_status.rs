//! Derives the status of an environment.

use jiff::Timestamp;

use crate::{
    api::{
        EnvironmentStatus,
        compliance::ComplianceState,
        condition::{self, COMPLIANT, READY, RECONCILING, Statement},
        environment::{Finding, Head},
        snapshot::{Verdict, VerdictReason},
    },
    cluster::image::Fingerprint,
    snapshot::{
        log,
        reasons::{EnvironmentReason, first_few, unidentified_in_words},
        state::{EnvironmentProblem, EnvironmentSummary, Frozen},
    },
};

/// What the status of an environment follows from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StatusInput<'a> {
    /// The environment's.
    pub name: &'a str,
    pub summary: &'a EnvironmentSummary,
    /// Why nothing is recorded.
    pub frozen: Option<&'a Frozen>,
    /// That began a short time ago.
    pub recovering: bool,
    pub now: Timestamp,
}

/// Updates `status`.
pub(crate) fn new_status(
    mut status: EnvironmentStatus,
    input: StatusInput<'_>,
) -> EnvironmentStatus {
    let StatusInput {
        name,
        summary,
        frozen,
        recovering,
        now,
    } = input;
    let generation = status.observed_generation;
    if let Some((index, time)) = summary.head {
        status.head = Some(Head {
            index,
            name: log::name(name, index),
            time,
        });
        status.artifacts = Some(summary.totals.artifacts);
        status.instances = Some(summary.totals.instances);
        status.unidentified = Some(summary.unidentified);
        status.compliance = Some(summary.compliance.state.as_str().to_owned());
        status.pending_until = summary.compliance.pending_until;
        status.reasons = findings(summary);
        let compliant = compliant(summary);
        condition::set(&mut status.conditions, &compliant, generation, now);
    }
    let ready = ready(summary, frozen);
    condition::set(&mut status.conditions, &ready, generation, now);
    if recovering {
        let waiting = statement(
            RECONCILING,
            Some(true),
            EnvironmentReason::Waiting.as_str(),
            String::new(),
        );
        condition::set(&mut status.conditions, &waiting, generation, now);
    } else {
        condition::remove(&mut status.conditions, RECONCILING);
    }
    status
}

fn statement(
    type_: &'static str,
    status: Option<bool>,
    reason: &'static str,
    message: String,
) -> Statement {
    Statement {
        type_,
        status,
        reason,
        message,
    }
}

fn ready(summary: &EnvironmentSummary, frozen: Option<&Frozen>) -> Statement {
    if let Some(Frozen { reason, message }) = frozen {
        let message = format!("Nothing is recorded until this is resolved: {message}");
        return statement(READY, Some(false), reason.as_str(), message);
    }
    let message = match summary.unidentified {
        0 => "What runs is known and recorded.".to_owned(),
        count => format!(
            "What runs is known and recorded, but for {}.",
            unidentified_in_words(count)
        ),
    };
    statement(
        READY,
        Some(true),
        EnvironmentReason::Recording.as_str(),
        message,
    )
}

/// What a status says that does not comply: the opposite of what writes it there. What is no such statement is left out.
pub(crate) fn problems(status: &EnvironmentStatus) -> Vec<EnvironmentProblem> {
    let problem = |finding: &Finding| {
        let reason = serde_json::Value::String(finding.reason.clone());
        Some(EnvironmentProblem {
            name: finding.name.clone(),
            fingerprint: Fingerprint::from_hex(&finding.fingerprint)?,
            verdict: Verdict {
                state: ComplianceState::NonCompliant,
                reason: serde_json::from_value(reason).ok()?,
                message: finding.message.clone(),
                first_seen: Timestamp::UNIX_EPOCH, // it is not told
                grace_until: finding.grace_until,
                valid_until: None,
                grace_over: false,
            },
        })
    };
    status.reasons.iter().filter_map(problem).collect()
}

/// How many images are named in the message.
const NAMED: usize = 3;

fn findings(summary: &EnvironmentSummary) -> Vec<Finding> {
    let (problems, _) = &summary.problems;
    let reason = |problem: &EnvironmentProblem| Finding {
        fingerprint: problem.fingerprint.to_string(),
        name: problem.name.clone(),
        reason: problem.verdict.reason.as_str().to_owned(),
        message: problem.verdict.message.clone(),
        grace_until: problem.verdict.grace_until,
    };
    problems.iter().map(reason).collect()
}

fn compliant(summary: &EnvironmentSummary) -> Statement {
    let compliance = &summary.compliance;
    let statement = |status, reason, message| statement(COMPLIANT, status, reason, message);
    if !summary.ruled {
        let message = "There are no rules: spec.compliance is not set.".to_owned();
        return statement(None, VerdictReason::NoPolicy.as_str(), message);
    }
    let (problems, more) = &summary.problems;
    let (waiting, violations): (Vec<&EnvironmentProblem>, Vec<_>) = problems
        .iter()
        .partition(|it| it.verdict.grace_until.is_some());
    let until = |end: Option<Timestamp>| {
        let whole = end.map(|end| Timestamp::from_second(end.as_second() + 1).unwrap_or(end));
        whole.map_or(String::new(), |end| format!(" until {end}"))
    };
    match compliance.state {
        ComplianceState::Compliant if waiting.is_empty() => statement(
            Some(true),
            VerdictReason::Satisfied.as_str(),
            "Everything that runs complies with the rules.".to_owned(),
        ),
        ComplianceState::Compliant => {
            let message = format!(
                "What is missing may still arrive{}: {}",
                until(compliance.pending_until),
                listed(&waiting, *more)
            );
            statement(
                Some(true),
                EnvironmentReason::WaitingForEvidence.as_str(),
                message,
            )
        }
        ComplianceState::NonCompliant if compliance.raw == ComplianceState::Compliant => {
            let message = format!(
                "Nothing violates the rules any more. It counts as compliant if that lasts{}.",
                until(compliance.pending_until)
            );
            statement(Some(false), EnvironmentReason::Recovering.as_str(), message)
        }
        ComplianceState::NonCompliant => {
            let unidentified = VerdictReason::Unidentified.as_str();
            let reason = violations
                .first()
                .map_or(unidentified, |it| it.verdict.reason.as_str());
            let message = match violations.len() {
                0 => compliance.reasons.join("; "),
                _ => listed(&violations, *more),
            };
            statement(Some(false), reason, message)
        }
        ComplianceState::Unknown => {
            let message = format!(
                "Not decided yet: what is missing may still arrive{}: {}",
                until(compliance.pending_until),
                listed(&waiting, *more)
            );
            statement(
                None,
                EnvironmentReason::WaitingForEvidence.as_str(),
                message,
            )
        }
    }
}

fn listed(problems: &[&EnvironmentProblem], more: usize) -> String {
    let line = |it: &&EnvironmentProblem| format!("{}: {}", it.name, it.verdict.message);
    first_few(problems.iter().map(line), NAMED, more)
}
