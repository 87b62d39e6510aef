//! An environment and its allow-list, as the read API shows them.

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    compliance::evidence::{Allowance, Evidence},
    message::installation::{Installation, Link},
    snapshot::state::{EnvironmentProblem, EnvironmentSummary},
    web::views::{Compliant, Seconds},
};

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct EnvironmentView {
    #[serde(rename = "_links")]
    pub(crate) links: EnvironmentLinks,
    pub(crate) api_url: String,
    pub(crate) artifacts: Option<i64>,
    pub(crate) has_rules: bool,
    pub(crate) html_url: String,
    pub(crate) instances: Option<i64>,
    pub(crate) last_changed_at: Option<Seconds>,
    pub(crate) more_reasons: usize,
    pub(crate) name: String,
    pub(crate) org: String,
    pub(crate) pending_until: Option<Seconds>,
    pub(crate) reasons: Vec<ReasonView>,
    pub(crate) reasons_for_incompliance: Vec<String>,
    pub(crate) snapshot_index: Option<i64>,
    pub(crate) state: Compliant,
    pub(crate) state_since: Option<Seconds>,
    #[serde(rename = "type")]
    pub(crate) type_: &'static str,
    pub(crate) unidentified: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct EnvironmentLinks {
    /// The newest snapshot.
    pub(crate) snapshot: Link,
}

/// An artifact that breaks the rules now, or that lacks evidence which may still arrive.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ReasonView {
    pub(crate) artifact_name: String,
    pub(crate) compliant: Compliant,
    pub(crate) fingerprint: String,
    pub(crate) grace_until: Option<Seconds>,
    pub(crate) message: String,
    pub(crate) reason: &'static str,
}

impl ReasonView {
    fn of(problem: &EnvironmentProblem) -> Self {
        let verdict = &problem.verdict;
        Self {
            artifact_name: problem.name.clone(),
            compliant: Compliant(verdict.state),
            fingerprint: problem.fingerprint.to_string(),
            grace_until: verdict.grace_until.map(Seconds),
            message: verdict.message.clone(),
            reason: verdict.reason.as_str(),
        }
    }
}

/// Describes an environment. `summary`: what is known about it, as soon as its log has been read.
pub(crate) fn environment(
    installation: &Installation,
    name: &str,
    summary: Option<&EnvironmentSummary>,
) -> EnvironmentView {
    let Link { html, api } = installation.environment(name);
    let unread = EnvironmentView {
        api_url: api,
        html_url: html,
        name: name.to_owned(),
        org: installation.org.clone(),
        type_: "K8S",
        ..EnvironmentView::default()
    };
    let Some(summary) = summary else {
        return unread;
    };
    let (compliance, (problems, more)) = (&summary.compliance, &summary.problems);
    let newest = summary
        .head
        .map(|(index, _)| installation.snapshot(name, index));
    EnvironmentView {
        links: EnvironmentLinks {
            snapshot: newest.unwrap_or_default(),
        },
        artifacts: Some(summary.totals.artifacts),
        has_rules: summary.ruled,
        instances: Some(summary.totals.instances),
        last_changed_at: summary.head.map(|(_, time)| Seconds(time)),
        more_reasons: *more,
        pending_until: compliance.pending_until.map(Seconds),
        reasons: problems.iter().map(ReasonView::of).collect(),
        reasons_for_incompliance: compliance.reasons.clone(),
        snapshot_index: summary.head.map(|(index, _)| index),
        state: Compliant(compliance.state),
        state_since: compliance.since.map(Seconds),
        unidentified: Some(summary.unidentified),
        ..unread
    }
}

/// An image on the allow-list of an environment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct AllowedView {
    pub(crate) active: bool,
    pub(crate) artifact_name: String,
    /// The reason.
    pub(crate) description: String,
    pub(crate) entry: String,
    pub(crate) environment_name: String,
    pub(crate) expires_at: Option<Seconds>,
    pub(crate) fingerprint: String,
    pub(crate) timestamp: Seconds,
    /// Always empty: Kubernetes does not record who created an object.
    pub(crate) user_name: &'static str,
}

/// Lists the allow-list of one environment, or of all: the newest entries first.
pub(crate) fn allow_list(
    evidence: &Evidence,
    environment: Option<&str>,
    now: Timestamp,
) -> Vec<AllowedView> {
    let mut entries: Vec<&Allowance> = match environment {
        Some(name) => evidence.allowances_in(name).map(|entry| &**entry).collect(),
        None => evidence.allowances().values().map(|it| &**it).collect(),
    };
    entries.sort_by(|a, b| (b.created, &a.name).cmp(&(a.created, &b.name)));
    let mut images = vec![];
    for entry in entries {
        let names = entry.environments.iter();
        for name in names.filter(|name| environment.is_none_or(|wanted| wanted == &***name)) {
            let images_here = entry.artifacts.iter();
            images.extend(images_here.map(|(fingerprint, image)| AllowedView {
                active: entry.is_active(now),
                artifact_name: image.to_string(),
                description: entry.reason.trim().to_owned(),
                entry: entry.name.to_string(),
                environment_name: name.to_string(),
                expires_at: entry.expires.map(Seconds),
                fingerprint: fingerprint.to_string(),
                timestamp: Seconds(entry.created),
                user_name: "",
            }));
        }
    }
    images
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        simulation::testing::digest,
        web::testing::{installation, non_compliant},
    };

    fn json(view: &impl Serialize) -> Value {
        serde_json::to_value(view).unwrap()
    }

    #[test]
    fn an_environment_shows_whether_it_is_compliant_and_why_not() {
        let mut cluster = non_compliant();
        let view = |cluster: &crate::simulation::Cluster| {
            let summary = cluster.state.summary("prod");
            json(&environment(&installation(), "prod", summary.as_ref()))
        };
        let found = view(&cluster);
        let index = cluster.recorded("prod").index;
        assert_eq!(found["state"], false);
        assert_eq!(found["snapshot_index"], index);
        let last = Seconds(cluster.recorded("prod").time).as_f64();
        assert_eq!(found["last_changed_at"], last);
        let reasons = found["reasons_for_incompliance"].as_array().unwrap();
        assert_eq!(reasons.len(), 1, "{found}");
        assert_eq!(
            found["reasons"],
            json!([{
                "artifact_name": "registry.example/v1:1", "fingerprint": digest("v1").to_string(), "compliant": false,
                "reason": "NoProvenance", "message": "no provenance, not on the allow-list", "grace_until": null,
            }])
        );
        assert_eq!(
            (&found["artifacts"], &found["instances"]),
            (&1.into(), &2.into())
        );
        assert_eq!(
            found["_links"]["snapshot"]["html"],
            format!("https://s.example/acme/environments/prod/snapshots/{index}")
        );
        let entry = format!(
            "{{environments: [prod], artifacts: [{{fingerprint: {}, name: web}}], reason: fine}}",
            digest("v1")
        );
        cluster.allow("fine", &entry);
        cluster.pass(60);
        let found = view(&cluster);
        assert_eq!(found["state"], true);
        assert_eq!(found["reasons"], json!([]));
        let unread = json(&environment(&installation(), "prod", None));
        assert_eq!(unread["state"], Value::Null);
        assert_eq!(unread["last_changed_at"], Value::Null);
        assert_eq!(unread["_links"]["snapshot"]["self"], "");
    }

    #[test]
    fn the_allow_list_has_the_shape_of_the_contract_and_what_it_needs_more() {
        let cluster = non_compliant();
        let evidence = cluster.state.evidence();
        let now = "2027-11-30T23:59:59Z".parse().unwrap();
        let list = |environment, now| json(&allow_list(evidence, environment, now));
        let found = list(Some("prod"), now);
        let want = json!([{
            "artifact_name": "soon", "fingerprint": digest("v9").to_string(), "environment_name": "prod",
            "timestamp": found[0]["timestamp"], "user_name": "", "description": "next week",
            "expires_at": 1_827_619_200.0, "active": true, "entry": "soon",
        }]);
        assert_eq!(found, want);
        assert!(want[0]["timestamp"].is_f64());
        let over = "2027-12-01T00:00:00Z".parse().unwrap();
        assert_eq!(list(Some("prod"), over)[0]["active"], false);
        assert_eq!(allow_list(evidence, Some("dev"), now), vec![]);
        assert_eq!(allow_list(evidence, None, now).len(), 2);
    }
}
