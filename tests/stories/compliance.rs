//! Rules, records, reviews and the allow-list, and what becomes of environments.

use anyhow::{Context as _, Result, ensure};
use kit::{
    Actor, Answer, Cluster, FakeKubelet, Heard, Image, Receiver, Registry, apply, bare_pod,
    cluster::PATIENCE,
    daemon_set, deployment, eventually, play,
    stage::{Cast, SETTLE, all_told, alone, operator, together},
    stays,
};
use serde_json::{Value, json};
use shipbell::api::{
    Environment, EnvironmentSnapshotSpec, NotificationSettingStatus, snapshot::Cause,
};
use std::{collections::BTreeSet, time::Duration};

/// All that can be asked for but scalings.
const EVENTS: &str = "eventTypes: [ARTIFACT_STARTED, ARTIFACT_STOPPED, ARTIFACT_ALLOWED, ENVIRONMENT_NON_COMPLIANT, ENVIRONMENT_COMPLIANT]";

/// How long what is missing may take to arrive: long enough for a slow machine to bring it, short enough to wait for.
const GRACE: &str = "4s";

/// An environment with rules, the namespace that CI writes to, and a receiver that hears of everything.
struct Vetted {
    actor: Actor,
    ci: String,
    receiver: Receiver,
}

impl Vetted {
    /// `web` runs `v1`, which is recorded; `more` are further rules (YAML).
    async fn new(cluster: &'static Cluster, name: &str, more: &str) -> Result<Vetted> {
        Self::with(cluster, name, GRACE, more).await
    }

    /// The same with another grace.
    async fn with(
        cluster: &'static Cluster,
        name: &str,
        grace: &str,
        more: &str,
    ) -> Result<Vetted> {
        let ci = cluster.namespace("ci").await?;
        let name = cluster.namespace(name).await?;
        let actor = Actor { cluster, name };
        let vetted = Vetted {
            actor,
            ci,
            receiver: Receiver::start(),
        };
        let image = vetted.image("v1");
        let web = deployment(&vetted.actor.name, "web", &image, 1).rolling(1, 0);
        vetted.actor.apply(web).await?;
        cluster.rolled_out(&vetted.actor.name, "web").await?;
        vetted.record("v1", json!({})).await?;
        vetted.rules(grace, more).await?;
        vetted.actor.recorded(1).await?;
        vetted.is("Compliant", "Satisfied").await?;
        vetted
            .actor
            .webhook("all", &vetted.receiver, EVENTS)
            .await?;
        Ok(vetted)
    }

    /// Edits the rules.
    async fn rules(&self, grace: &str, more: &str) -> Result<()> {
        let ci = &self.ci;
        let fields = format!(
            "settle: {SETTLE}\n\
             compliance: {{provenance: {{required: true, trustedNamespaces: [{ci}]}}, grace: {grace}, recoveryWindow: 1s{more}}}"
        );
        self.actor.environment(&fields).await
    }

    fn image(&self, tag: &str) -> String {
        format!("r.example/{}:{tag}", self.actor.name)
    }

    fn digest(&self, tag: &str) -> String {
        self.actor.cluster.kubelet.digest_of(&self.image(tag))
    }

    /// CI records an image, with these further fields.
    async fn record(&self, tag: &str, more: Value) -> Result<()> {
        self.record_in(&self.ci, tag, tag, more).await
    }

    async fn record_in(&self, namespace: &str, name: &str, tag: &str, more: Value) -> Result<()> {
        let mut spec = json!({"fingerprint": self.digest(tag), "flow": "web"});
        for (field, value) in more.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        let record = json!({
            "apiVersion": "shipbell.dev/v1alpha1", "kind": "ArtifactProvenance",
            "metadata": {"name": name, "namespace": namespace}, "spec": spec,
        });
        self.actor.apply(record).await
    }

    /// Someone reviews an image.
    async fn review(&self, name: &str, tag: &str, state: &str) -> Result<()> {
        let review = json!({
            "apiVersion": "shipbell.dev/v1alpha1", "kind": "ArtifactApproval",
            "metadata": {"name": name, "namespace": self.ci},
            "spec": {"fingerprint": self.digest(tag), "state": state, "reviewer": "eve"},
        });
        self.actor.apply(review).await
    }

    /// Security allows an image; the entry is called like the environment.
    async fn allow(&self, tag: &str, more: Value) -> Result<()> {
        let mut entry = json!({
            "apiVersion": "shipbell.dev/v1alpha1", "kind": "AllowedArtifact",
            "metadata": {"name": self.actor.name},
            "spec": {
                "environments": [self.actor.name], "reason": "hotfix INC-42",
                "artifacts": [{"fingerprint": self.digest(tag), "name": self.image(tag)}],
            },
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            entry["spec"][field] = value.clone();
        }
        self.actor.apply(entry).await
    }

    async fn roll(&self, tag: &str) -> Result<()> {
        self.actor
            .cluster
            .set_image(&self.actor.name, "web", &self.image(tag))
            .await
    }

    /// Waits until the environment's status says so: compliance and the reason of its condition.
    async fn is(&self, compliance: &str, reason: &str) -> Result<()> {
        let what = format!("{} to be {compliance} {reason}", self.actor.name);
        eventually(PATIENCE, &what, async || {
            let status = self.actor.environment_status().await?;
            let condition = status.conditions.iter().find(|c| c.type_ == "Compliant");
            let found = condition.map_or("", |condition| condition.reason.as_str());
            let told = status.compliance.as_deref().unwrap_or_default();
            ensure!((told, found) == (compliance, reason), "{told} {found}");
            Ok(())
        })
        .await
    }

    /// Waits until exactly these types were heard, in this order, and nothing follows for a while.
    async fn hears(&self, want: &[&str]) -> Result<Vec<Heard>> {
        let types = || -> Vec<String> { self.receiver.heard().iter().map(type_of).collect() };
        self.receiver
            .wait_for(PATIENCE, |heard| heard.len() >= want.len())
            .await
            .with_context(|| format!("heard {:?}, waited for {want:?}", types()))?;
        let same = async || {
            let heard = types();
            ensure!(heard == want, "heard {heard:?}, not {want:?}");
            Ok(())
        };
        stays(Duration::from_millis(1_500), "what was heard", same).await?;
        Ok(self.receiver.heard())
    }

    /// Waits until the grace of what ran at first is over.
    async fn grace_is_over(&self) -> Result<()> {
        let end = self.actor.log().await?[0].time + jiff::SignedDuration::from_secs(4);
        eventually(PATIENCE, "the end of the grace", async || {
            ensure!(jiff::Timestamp::now() > end, "until {end}");
            Ok(())
        })
        .await
    }

    /// The message of the condition `Compliant`, and whether it is the newest spec's.
    async fn because(&self) -> Result<String> {
        let status = self.actor.environment_status().await?;
        let condition = status.conditions.iter().find(|c| c.type_ == "Compliant");
        Ok(condition.context("no condition")?.message.clone())
    }

    /// What `kubectl get shipenv` prints under COMPLIANCE and WHY.
    async fn columns(&self) -> Result<(String, String)> {
        let args = ["get", "shipenv", &self.actor.name];
        let table = self.actor.cluster.plane.kubectl(&args).await?;
        let (titles, values) = table.split_once('\n').context("no table")?;
        let words = |line: &str| -> Vec<String> {
            line.split_whitespace().map(ToOwned::to_owned).collect()
        };
        let (titles, values) = (words(titles), words(values));
        let under = |title: &str| {
            let at = titles.iter().position(|found| found == title);
            let value = at.and_then(|at| values.get(at));
            value
                .cloned()
                .with_context(|| format!("no {title}: {table}"))
        };
        Ok((under("COMPLIANCE")?, under("WHY")?))
    }

    /// Waits for so many Kubernetes Events on the environment: type, reason and note of each, the oldest first.
    async fn happened(&self, count: usize) -> Result<Vec<(String, String, String)>> {
        let api: kube::Api<k8s_openapi::api::events::v1::Event> =
            kube::Api::all(self.actor.cluster.client());
        let uid = self.actor.uid().await?;
        let what = format!("{count} Kubernetes Events on {}", self.actor.name);
        eventually(PATIENCE, &what, async || {
            let field = format!("regarding.kind=Environment,regarding.uid={uid}");
            let list = kube::api::ListParams::default().fields(&field);
            let mut found = api.list(&list).await?.items;
            found.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
            let told: Vec<_> = found
                .into_iter()
                .map(|event| {
                    (
                        event.type_.unwrap_or_default(),
                        event.reason.unwrap_or_default(),
                        event.note.unwrap_or_default(),
                    )
                })
                .collect();
            ensure!(told.len() == count, "{told:?}");
            Ok(Some(told))
        })
        .await
    }

    /// CI's record is deleted.
    async fn unrecord(&self, name: &str) -> Result<()> {
        let args = ["-n", &self.ci, "delete", "artifactprovenance", name];
        self.actor.cluster.plane.kubectl(&args).await.map(drop)
    }

    async fn last(&self) -> Result<EnvironmentSnapshotSpec> {
        self.actor.sound_log().await?.pop().context("no snapshot")
    }

    /// Waits until a field of an object reads so.
    async fn reads(&self, object: &[&str], path: &str, want: &str) -> Result<()> {
        let path = format!("jsonpath={path}");
        let args: Vec<&str> = ["get"]
            .into_iter()
            .chain(object.iter().copied())
            .chain(["-o", &path])
            .collect();
        eventually(
            PATIENCE,
            &format!("{object:?} {path} to read {want:?}"),
            async || {
                let told = self.actor.cluster.plane.kubectl(&args).await?;
                ensure!(told == want, "{told:?}");
                Ok(())
            },
        )
        .await
    }
}

fn type_of(heard: &Heard) -> String {
    heard.json()["event_type"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn description(heard: &Heard) -> String {
    heard.json()["description"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

const ROLLED: [&str; 2] = ["ARTIFACT_STARTED", "ARTIFACT_STOPPED"];
const RED: &str = "ENVIRONMENT_NON_COMPLIANT";
const GREEN: &str = "ENVIRONMENT_COMPLIANT";

#[test]
fn an_unvetted_image_has_its_grace_and_then_the_environment_is_red_once() {
    play(async |cluster| {
        let vetted = Vetted::new(cluster, "unvetted", "").await?;
        vetted.roll("v2").await?;
        vetted.is("Compliant", "WaitingForEvidence").await?;
        vetted.is("Non-Compliant", "NoProvenance").await?;
        let heard = vetted.hears(&[ROLLED[0], ROLLED[1], RED]).await?;
        together(&heard[..2])?;
        let told = description(&heard[2]);
        let image = vetted.image("v2");
        let why = format!(
            "environment became non-compliant: {image} ({}): no provenance, not on the allow-list",
            &vetted.digest("v2")[..12]
        );
        assert_eq!(told, why);
        assert_eq!(heard[2].json()["snapshot"]["status"], "non-compliant");
        assert_eq!(heard[2].json().get("artifact"), None);
        assert_eq!(vetted.last().await?.causes, [Cause::GraceExpired]);

        let status = vetted.actor.environment_status().await?;
        let reason = &status.reasons[0];
        assert_eq!((&*reason.name, &*reason.reason), (&*image, "NoProvenance"));
        assert_eq!(reason.message, "no provenance, not on the allow-list");
        assert_eq!((reason.grace_until, status.pending_until), (None, None));
        assert_eq!(reason.fingerprint, vetted.digest("v2"));
        Ok(())
    });
}

#[test]
fn an_environment_says_whether_it_is_compliant_and_why() {
    play(async |cluster| {
        let vetted = Vetted::new(cluster, "why", "").await?;
        let pair = |compliance: &str, why: &str| (compliance.to_owned(), why.to_owned());
        assert_eq!(vetted.columns().await?, pair("Compliant", "Satisfied"));
        assert_eq!(
            vetted.because().await?,
            "Everything that runs complies with the rules."
        );

        vetted.roll("v2").await?;
        vetted.is("Compliant", "WaitingForEvidence").await?;
        let status = vetted.actor.environment_status().await?;
        let waits = vetted.because().await?;
        let start = "What is missing may still arrive until ";
        let image = vetted.image("v2");
        let end = format!(": {image}: no provenance, not on the allow-list");
        ensure!(waits.starts_with(start) && waits.ends_with(&end), "{waits}");
        assert_eq!(status.reasons.len(), 1);
        assert_eq!(status.reasons[0].grace_until, status.pending_until);
        assert!(status.pending_until.is_some());

        vetted.is("Non-Compliant", "NoProvenance").await?;
        assert_eq!(
            vetted.columns().await?,
            pair("Non-Compliant", "NoProvenance")
        );
        assert_eq!(
            vetted.because().await?,
            format!("{image}: no provenance, not on the allow-list")
        );
        let told = vetted.happened(1).await?;
        assert_eq!((&*told[0].0, &*told[0].1), ("Warning", "NonCompliant"));
        let note = &told[0].2;
        ensure!(note.contains(&image), "{note}");
        ensure!(note.contains("no provenance"), "{note}");

        vetted.record("v2", json!({})).await?;
        vetted.is("Compliant", "Satisfied").await?;
        let status = vetted.actor.environment_status().await?;
        assert_eq!((status.reasons, status.pending_until), (vec![], None));
        let told = vetted.happened(2).await?;
        assert_eq!((&*told[1].0, &*told[1].1), ("Normal", "Compliant"));
        ensure!(told[1].2.contains(&image), "{}", told[1].2);

        // Without rules it is neither.
        vetted
            .actor
            .environment(&format!("settle: {SETTLE}"))
            .await?;
        vetted.is("Unknown", "NoPolicy").await?;
        assert_eq!(vetted.columns().await?, pair("Unknown", "NoPolicy"));
        vetted.happened(2).await?;
        Ok(())
    });
}

#[test]
fn a_record_that_arrives_within_the_grace_rings_nothing() {
    play(async |cluster| {
        let vetted = Vetted::new(cluster, "late", "").await?;
        vetted.roll("v2").await?;
        vetted.is("Compliant", "WaitingForEvidence").await?;
        vetted.record("v2", json!({})).await?;
        vetted.is("Compliant", "Satisfied").await?;
        vetted.hears(&ROLLED).await?;
        Ok(())
    });
}

#[test]
fn what_security_allows_is_told_and_the_environment_is_green_after_the_window() {
    play(async |cluster| {
        let vetted = Vetted::new(cluster, "allowed", "").await?;
        vetted.roll("v2").await?;
        vetted.hears(&[ROLLED[0], ROLLED[1], RED]).await?;
        vetted.allow("v2", json!({})).await?;
        let heard = vetted
            .hears(&[ROLLED[0], ROLLED[1], RED, "ARTIFACT_ALLOWED", GREEN])
            .await?;
        assert_eq!(
            description(&heard[3]),
            "artifact was added to the allow-list: hotfix INC-42"
        );
        assert_eq!(
            heard[3].json()["artifact"]["fingerprint"],
            vetted.digest("v2")
        );
        assert!(
            description(&heard[4]).ends_with("on the allow-list: hotfix INC-42"),
            "{}",
            description(&heard[4])
        );
        let name = vetted.actor.name.clone();
        let entry = ["allowedartifact", name.as_str()];
        vetted
            .reads(
                &entry,
                "{.status.state} {.status.announced[*]}",
                &format!("Active {name}"),
            )
            .await?;
        Ok(())
    });
}

#[test]
fn an_allowance_that_ends_while_the_operator_is_down_is_told_as_of_its_end() {
    alone(async |cluster| {
        let running = operator(cluster, &Cast::default()).await?;
        let vetted = Vetted::new(cluster, "expires", "").await?;
        let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(15);
        vetted
            .allow("v2", json!({"expiresAt": end.to_string()}))
            .await?;
        let allowed = |heard: &[Heard]| !heard.is_empty();
        vetted.receiver.wait_for(PATIENCE, allowed).await?;
        vetted.roll("v2").await?;
        let rolled = |heard: &[Heard]| heard.len() >= 3;
        vetted.receiver.wait_for(PATIENCE, rolled).await?;
        // A crash before they are acknowledged would send them again.
        let head = vetted.last().await?.index;
        let done = "everything to be acknowledged";
        let status = |status: &NotificationSettingStatus| status.cursors[0].index >= head;
        vetted.actor.status_when("all", done, status).await?;
        running.kill_9();
        eventually(PATIENCE, "the end of the allowance", async || {
            ensure!(jiff::Timestamp::now() > end, "it is still in force");
            Ok(())
        })
        .await?;
        let _running = operator(
            cluster,
            &Cast {
                name: "again".to_owned(),
                ..Cast::default()
            },
        )
        .await?;
        vetted.is("Non-Compliant", "NoProvenance").await?;
        let mut heard = vetted
            .hears(&["ARTIFACT_ALLOWED", ROLLED[0], ROLLED[1], RED])
            .await?;
        let red = heard.pop().context("nothing heard")?;
        assert_eq!(
            red.json()["timestamp"],
            end.as_second().to_string(),
            "as of its end"
        );
        let last = vetted.last().await?;
        assert_eq!(last.causes, [Cause::AllowanceExpired]);
        let name = vetted.actor.name.clone();
        vetted
            .reads(&["allowedartifact", &name], "{.status.state}", "Expired")
            .await
    });
}

#[test]
fn an_allowance_that_ends_is_told_at_once_and_without_grace() {
    play(async |cluster| {
        let vetted = Vetted::with(cluster, "ends", "1h", "").await?;
        vetted.roll("v2").await?;
        vetted.hears(&ROLLED).await?;
        let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(6);
        vetted
            .allow("v2", json!({"expiresAt": end.to_string()}))
            .await?;
        let heard = vetted
            .hears(&[ROLLED[0], ROLLED[1], "ARTIFACT_ALLOWED", RED])
            .await?;
        let late = heard[3].at.duration_since(end);
        ensure!(!late.is_negative(), "{late:#} before its end");
        assert_eq!(vetted.last().await?.causes, [Cause::AllowanceExpired]);
        vetted.is("Non-Compliant", "NoProvenance").await?;
        let name = vetted.actor.name.clone();
        let entry = ["allowedartifact", name.as_str()];
        let path = "{.status.state} {.status.conditions[0].status} {.status.conditions[0].reason}";
        vetted.reads(&entry, path, "Expired True Expired").await
    });
}

#[test]
fn an_entry_that_is_deleted_is_told_by_what_it_leaves_behind() {
    play(async |cluster| {
        let vetted = Vetted::with(cluster, "revoked", "1h", "").await?;
        vetted.roll("v2").await?;
        vetted.hears(&ROLLED).await?;
        vetted.allow("v2", json!({})).await?;
        vetted.is("Compliant", "Satisfied").await?;
        vetted
            .hears(&[ROLLED[0], ROLLED[1], "ARTIFACT_ALLOWED"])
            .await?;
        let name = vetted.actor.name.clone();
        cluster
            .plane
            .kubectl(&["delete", "allowedartifact", &name])
            .await?;
        // No grace: there was time enough.
        vetted
            .hears(&[ROLLED[0], ROLLED[1], "ARTIFACT_ALLOWED", RED])
            .await?;
        assert_eq!(vetted.last().await?.causes, [Cause::AllowListChanged]);
        Ok(())
    });
}

#[test]
fn what_is_said_while_the_operator_is_down_is_told_once_when_it_is_back() {
    alone(async |cluster| {
        let started = async |name: &str| {
            let name = name.to_owned();
            operator(
                cluster,
                &Cast {
                    name,
                    ..Cast::default()
                },
            )
            .await
        };
        let running = started("operator").await?;
        let vetted = Vetted::new(cluster, "down", "").await?;
        vetted.grace_is_over().await?;
        running.kill_9();
        vetted.unrecord("v1").await?;
        let running = started("operator-2").await?;
        vetted.hears(&[RED]).await?;
        running.kill_9();
        // Both ways, which comes to nothing.
        vetted
            .record_in(&vetted.ci, "again", "v1", json!({}))
            .await?;
        vetted.unrecord("again").await?;
        let running = started("operator-3").await?;
        vetted.is("Non-Compliant", "NoProvenance").await?;
        vetted.hears(&[RED]).await?;
        running.kill_9();
        vetted.record("v1", json!({})).await?;
        let _running = started("operator-4").await?;
        vetted.is("Compliant", "Satisfied").await?;
        vetted.hears(&[RED, GREEN]).await?;
        Ok(())
    });
}

#[test]
fn an_entry_for_an_environment_that_does_not_exist_says_so_until_it_does() {
    play(async |cluster| {
        let vetted = Vetted::new(cluster, "nowhere", "").await?;
        let name = vetted.actor.name.clone();
        let missing = format!("{name}-eu");
        vetted
            .allow("v2", json!({"environments": [missing]}))
            .await?;
        let entry = ["allowedartifact", name.as_str()];
        let path = "{.status.state} {.status.conditions[0].reason} {.status.announced[*]}";
        let absent = "EnvironmentNotFound EnvironmentNotFound ";
        vetted.reads(&entry, path, absent).await?;
        let message = [
            "get",
            "allowedartifact",
            &name,
            "-o",
            "jsonpath={.status.conditions[0].message}",
        ];
        let told = cluster.plane.kubectl(&message).await?;
        assert!(told.contains(&missing), "{told}");
        vetted
            .actor
            .further_environment(&missing, "namespaces: {include: [nowhere]}")
            .await?;
        let there = format!("Active Active {missing}");
        vetted.reads(&entry, path, &there).await?;
        // The other environment never heard of it.
        vetted.hears(&[]).await?;
        Ok(())
    });
}

#[test]
fn evidence_that_turns_bad_on_a_running_image_is_told_at_once() {
    play(async |cluster| {
        let vetted = Vetted::new(cluster, "scan", ", evidence: {required: true}").await?;
        vetted
            .record(
                "v1",
                json!({"attestations": [{"name": "scan", "compliant": false}]}),
            )
            .await?;
        let heard = vetted.hears(&[RED]).await?;
        assert!(
            description(&heard[0]).ends_with("failed evidence: scan"),
            "{}",
            description(&heard[0])
        );
        let ci = vetted.ci.clone();
        let record = ["-n", &ci, "artifactprovenance", "v1"];
        let running = format!("Non-Compliant {} Non-Compliant", vetted.actor.name);
        let path =
            "{.status.state} {.status.runningIn[0].environment} {.status.runningIn[0].compliance}";
        vetted.reads(&record, path, &running).await?;
        vetted
            .record(
                "v1",
                json!({"attestations": [{"name": "scan", "compliant": true}]}),
            )
            .await?;
        vetted.hears(&[RED, GREEN]).await?;
        Ok(())
    });
}

#[test]
fn a_rejection_is_not_waited_for() {
    play(async |cluster| {
        // So long that nothing can come of its end.
        let vetted = Vetted::with(cluster, "rejected", "1h", "").await?;
        vetted.roll("v2").await?;
        vetted.is("Compliant", "WaitingForEvidence").await?;
        vetted.review("no", "v2", "rejected").await?;
        let heard = vetted.hears(&[ROLLED[0], ROLLED[1], RED]).await?;
        let told = description(&heard[2]);
        assert!(told.ends_with("rejected by eve"), "{told}");
        vetted.is("Non-Compliant", "ApprovalRejected").await?;
        assert_eq!(vetted.last().await?.causes, [Cause::EvidenceChanged]);
        // The newest review counts; the record is waited for again.
        vetted.review("yes", "v2", "approved").await?;
        vetted.is("Compliant", "WaitingForEvidence").await?;
        vetted.hears(&[ROLLED[0], ROLLED[1], RED, GREEN]).await?;
        Ok(())
    });
}

#[test]
fn a_status_that_is_refused_for_its_content_is_written_without_lists() {
    play(async |cluster| {
        let vetted = Vetted::with(cluster, "short", "1h", "").await?;
        let (name, ci) = (&vetted.actor.name, &vetted.ci);
        // An admin's policy refuses lists in the statuses of this environment and of its records.
        let policy = |it: &str, resource: &str, here: &str, list: &str| {
            format!(
                "apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: {name}-{it}}}
spec:
  matchConstraints:
    resourceRules:
      - {{apiGroups: [shipbell.dev], apiVersions: ['*'], operations: [UPDATE], resources: [{resource}/status]}}
  matchConditions:
    - {{name: here, expression: object.metadata.{here}}}
  validations:
    - {{expression: '!has(object.status.{list}) || size(object.status.{list}) == 0'}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{name: {name}-{it}}}
spec: {{policyName: {name}-{it}, validationActions: [Deny]}}
"
            )
        };
        let of_environment = policy(
            "environment",
            "environments",
            &format!("name == '{name}'"),
            "reasons",
        );
        let of_records = policy(
            "records",
            "artifactprovenances",
            &format!("namespace == '{ci}'"),
            "runningIn",
        );
        let in_force = async |is: bool| {
            let finding = json!({"fingerprint": "", "name": "", "reason": "", "message": ""});
            let running = json!({"environment": name, "fingerprint": vetted.digest("v1"), "compliance": "Unknown"});
            for (kind, name, status) in [
                ("environment", name.as_str(), json!({"reasons": [finding]})),
                ("artifactprovenance", "v1", json!({"runningIn": [running]})),
            ] {
                let patch = json!({"status": status}).to_string();
                let args = ["-n", ci, "patch", kind, name, "--subresource=status"];
                let how = ["--dry-run=server", "--type=merge", "-p", &patch];
                let args: Vec<&str> = args.into_iter().chain(how).collect();
                eventually(PATIENCE, "the policies", async || {
                    let refused = vetted.actor.cluster.plane.kubectl(&args).await.is_err();
                    ensure!(refused == is, "{kind} refused: {refused}");
                    Ok(())
                })
                .await?;
            }
            anyhow::Ok(())
        };
        for yaml in [&of_environment, &of_records] {
            apply(&cluster.client(), yaml.as_str()).await?;
        }
        in_force(true).await?;

        vetted.roll("v2").await?;
        vetted.is("Compliant", "WaitingForEvidence").await?;
        assert_eq!(vetted.actor.environment_status().await?.reasons, []);
        vetted.record("v2", json!({})).await?;
        vetted.is("Compliant", "Satisfied").await?;
        let says = async |record: &'static str, want: &'static str| {
            let what = "{.status.conditions[0].reason} {.status.runningIn[*].environment}";
            let output = format!("jsonpath={what}");
            eventually(PATIENCE, record, async || {
                let get = ["-n", ci, "get", "shipprov", record, "-o", &output];
                let said = vetted.actor.cluster.plane.kubectl(&get).await?;
                ensure!(said == want, "{said}");
                Ok(())
            })
            .await
        };
        says("v2", "Recorded ").await?;

        // With the next news all of it is tried again.
        for yaml in [&of_environment, &of_records] {
            let delete = ["delete", "-f", "-"];
            let plane = &vetted.actor.cluster.plane;
            plane.kubectl_with_input(&delete, yaml).await?;
        }
        in_force(false).await?;
        vetted.roll("v3").await?;
        vetted.is("Compliant", "WaitingForEvidence").await?;
        let found = vetted.actor.environment_status().await?.reasons;
        assert_eq!(found.len(), 1, "{found:?}");
        Ok(())
    });
}

#[test]
fn reviews_are_numbered_in_the_order_in_which_they_come() {
    play(async |cluster| {
        let vetted = Vetted::new(cluster, "numbers", "").await?;
        let (number, reason) = ("{.status.number}", "{.status.conditions[0].reason}");
        let ci = vetted.ci.clone();
        let of = |name: &'static str| {
            [
                "-n".to_owned(),
                ci.clone(),
                "shipappr".to_owned(),
                name.to_owned(),
            ]
        };
        let numbered = async |name: &'static str| -> Result<i64> {
            let object = of(name);
            let object: Vec<&str> = object.iter().map(String::as_str).collect();
            vetted.reads(&object, reason, "Numbered").await?;
            let path = format!("jsonpath={number}");
            let args: Vec<&str> = ["get"]
                .into_iter()
                .chain(object)
                .chain(["-o", &path])
                .collect();
            Ok(cluster.plane.kubectl(&args).await?.parse()?)
        };
        // By name the other way round.
        vetted.review("z", "v1", "requested").await?;
        let first = numbered("z").await?;
        vetted.review("y", "v1", "approved").await?;
        let second = numbered("y").await?;
        vetted.review("x", "v1", "approved").await?;
        let third = numbered("x").await?;
        ensure!(first < second && second < third, "{first} {second} {third}");
        // A number that another system gave is kept.
        let given = json!({
            "apiVersion": "shipbell.dev/v1alpha1", "kind": "ArtifactApproval",
            "metadata": {"name": "given", "namespace": ci},
            "spec": {"fingerprint": vetted.digest("v1"), "state": "approved", "reviewer": "eve", "number": 4711},
        });
        vetted.actor.apply(given).await?;
        assert_eq!(numbered("given").await?, 4_711);
        // It is never edited.
        let patch = [
            "-n",
            &ci,
            "patch",
            "shipappr",
            "z",
            "--type=merge",
            "-p",
            r#"{"spec":{"state":"approved"}}"#,
        ];
        let told = cluster.plane.kubectl_fails(&patch, "").await?;
        assert!(told.contains("a review is never edited"), "{told}");
        Ok(())
    });
}

#[test]
fn edited_rules_turn_an_environment_there_and_back() {
    play(async |cluster| {
        let vetted = Vetted::new(cluster, "edited", "").await?;
        vetted.grace_is_over().await?;
        vetted.rules(GRACE, ", approval: {required: true}").await?;
        let heard = vetted.hears(&[RED]).await?;
        let told = description(&heard[0]);
        assert!(told.ends_with("no approval"), "{told}");
        assert_eq!(vetted.last().await?.causes, [Cause::PolicyChanged]);
        vetted.is("Non-Compliant", "ApprovalMissing").await?;
        vetted.rules(GRACE, "").await?;
        vetted.hears(&[RED, GREEN]).await?;
        assert_eq!(vetted.last().await?.causes, [Cause::RecoveryElapsed]);
        Ok(())
    });
}

#[test]
fn a_deleted_record_turns_an_environment() {
    play(async |cluster| {
        let vetted = Vetted::new(cluster, "deleted", "").await?;
        vetted.grace_is_over().await?;
        vetted.unrecord("v1").await?;
        let heard = vetted.hears(&[RED]).await?;
        let told = description(&heard[0]);
        assert!(told.contains("no provenance"), "{told}");
        assert_eq!(vetted.last().await?.causes, [Cause::EvidenceChanged]);
        vetted.is("Non-Compliant", "NoProvenance").await?;
        // It comes back, under another name.
        vetted
            .record_in(&vetted.ci, "again", "v1", json!({}))
            .await?;
        vetted.hears(&[RED, GREEN]).await?;
        Ok(())
    });
}

#[test]
fn one_bad_old_pod_holds_an_environment() {
    play(async |cluster| {
        let vetted = Vetted::new(cluster, "oldpod", "").await?;
        let name = vetted.actor.name.clone();
        vetted
            .actor
            .apply(bare_pod(&name, "old", &vetted.image("bad")))
            .await?;
        vetted.hears(&["ARTIFACT_STARTED", RED]).await?;
        cluster
            .plane
            .kubectl(&["-n", &name, "delete", "pod", "old"])
            .await?;
        let heard = vetted
            .hears(&["ARTIFACT_STARTED", RED, "ARTIFACT_STOPPED", GREEN])
            .await?;
        assert!(
            description(&heard[3]).ends_with("stopped"),
            "{}",
            description(&heard[3])
        );
        Ok(())
    });
}

#[test]
fn a_record_in_a_namespace_that_is_not_trusted_changes_nothing() {
    play(async |cluster| {
        let vetted = Vetted::new(cluster, "untrusted", "").await?;
        let tenant = cluster.namespace("tenant").await?;
        let more =
            json!({"flow": "evil", "aliases": [vetted.digest("v1")], "commit": {"sha": "1ac1570"}});
        vetted.record_in(&tenant, "evil", "v2", more).await?;
        vetted.roll("v2").await?;
        let heard = vetted.hears(&[ROLLED[0], ROLLED[1], RED]).await?;
        assert_eq!(
            heard[0].json()["artifact"]["fingerprint"],
            vetted.digest("v2")
        );
        assert_eq!(heard[0].json()["artifact"]["provenance"]["commit"], "");
        assert!(
            description(&heard[2]).contains("which is not trusted here"),
            "{}",
            description(&heard[2])
        );
        let record = ["-n", &tenant, "artifactprovenance", "evil"];
        vetted
            .reads(
                &record,
                "{.status.conditions[0].reason}",
                "NamespaceNotTrusted",
            )
            .await
    });
}

#[test]
fn what_a_tenant_says_of_a_good_image_is_not_heard() {
    play(async |cluster| {
        let vetted = Vetted::new(cluster, "slander", ", evidence: {required: true}").await?;
        let tenant = cluster.namespace("tenant").await?;
        let before = vetted.actor.log().await?.len();
        // Of the same flow and another, and a review.
        let bad = json!({"attestations": [{"name": "scan", "compliant": false}]});
        vetted.record_in(&tenant, "bad", "v1", bad.clone()).await?;
        let mut evil = bad;
        evil["flow"] = json!("evil");
        vetted.record_in(&tenant, "evil", "v1", evil).await?;
        let review = json!({
            "apiVersion": "shipbell.dev/v1alpha1", "kind": "ArtifactApproval",
            "metadata": {"name": "no", "namespace": tenant},
            "spec": {"fingerprint": vetted.digest("v1"), "state": "rejected", "reviewer": "mallory"},
        });
        vetted.actor.apply(review).await?;
        let reason = "{.status.conditions[0].reason} {.status.runningIn}";
        for object in [
            ["artifactprovenance", "bad"],
            ["artifactprovenance", "evil"],
            ["artifactapproval", "no"],
        ] {
            let object = ["-n", &tenant, object[0], object[1]];
            vetted
                .reads(&object, reason, "NamespaceNotTrusted ")
                .await?;
        }
        let ours = ["-n", &vetted.ci, "artifactprovenance", "v1"];
        vetted
            .reads(&ours, "{.status.state}{.status.conflict}", "Compliant")
            .await?;
        vetted.hears(&[]).await?;
        vetted.is("Compliant", "Satisfied").await?;
        assert_eq!(vetted.actor.log().await?.len(), before);
        Ok(())
    });
}

#[test]
fn two_flows_may_claim_one_image_and_of_one_flow_the_older_record_counts() {
    play(async |cluster| {
        let vetted = Vetted::new(cluster, "flows", ", evidence: {required: true}").await?;
        vetted.grace_is_over().await?; // objects know their age by the second
        let ci = vetted.ci.clone();
        vetted
            .record_in(
                &ci,
                "again",
                "v1",
                json!({"requiredAttestations": ["tests"]}),
            )
            .await?;
        let again = ["-n", &ci, "artifactprovenance", "again"];
        vetted
            .reads(
                &again,
                "{.status.conflict} {.status.state} {.status.missing[*]}",
                &format!("{ci}/v1 Incomplete tests"),
            )
            .await?;
        vetted.hears(&[]).await?;
        let bad =
            json!({"flow": "another", "attestations": [{"name": "scan", "compliant": false}]});
        vetted.record_in(&ci, "another", "v1", bad).await?;
        vetted.hears(&[RED]).await?;
        Ok(())
    });
}

#[test]
fn an_index_and_its_manifest_on_two_nodes_are_one_artifact_when_ci_lists_them() {
    play(async |cluster| {
        let vetted = Vetted::new(cluster, "index", "").await?;
        let (index, manifest) = (vetted.digest("v1"), "3".repeat(64));
        vetted.record("v1", json!({"aliases": [manifest]})).await?;
        // The same image, known by the manifest of its platform on another node.
        let other = Image {
            digest: Some(manifest.clone()),
            ..Image::default()
        };
        cluster.kubelet.image(&vetted.image("v1"), other);
        cluster.scale(&vetted.actor.name, "web", 2).await?;
        vetted.actor.settled(1, 2).await?;
        vetted.hears(&[]).await?;
        let api: kube::Api<Environment> = kube::Api::all(cluster.client());
        let status = api
            .get(&vetted.actor.name)
            .await?
            .status
            .context("no status")?;
        assert_eq!(status.compliance.as_deref(), Some("Compliant"));
        let log = vetted.actor.sound_log().await?;
        let identities: Vec<_> = log.iter().flat_map(|entry| &entry.identities).collect();
        assert_eq!(identities.len(), 1);
        assert_eq!(
            (&identities[0].alias, &identities[0].fingerprint),
            (&manifest, &index)
        );
        Ok(())
    });
}

#[test]
fn two_nodes_that_call_an_image_differently_run_one_artifact_when_ci_lists_its_names() {
    alone(async |cluster| {
        let _operator = operator(cluster, &Cast::default()).await?;
        let other = Registry::default();
        let _second = FakeKubelet::start_with(cluster.client(), "node-2", other.clone()).await?;
        let name = cluster.namespace("nodes").await?;
        let vetted = Vetted {
            ci: cluster.namespace("ci").await?,
            actor: Actor { cluster, name },
            receiver: Receiver::start(),
        };
        // The first node knows the index, the second the manifest of its platform.
        let manifest = |tag: &str| {
            if tag == "v1" {
                "1".repeat(64)
            } else {
                "2".repeat(64)
            }
        };
        for tag in ["v1", "v2"] {
            let digest = Some(manifest(tag));
            let image = Image {
                digest,
                ..Image::default()
            };
            other.set(&vetted.image(tag), image);
        }
        vetted
            .record("v1", json!({"aliases": [manifest("v1")]}))
            .await?;
        let name = vetted.actor.name.clone();
        vetted
            .actor
            .apply(daemon_set(&name, "agent", &vetted.image("v1")))
            .await?;
        vetted.actor.running("agent", 2).await?;
        vetted.rules(GRACE, "").await?;
        vetted.actor.recorded(1).await?;
        vetted.actor.settled(1, 2).await?;
        vetted.is("Compliant", "Satisfied").await?;
        vetted
            .actor
            .webhook("all", &vetted.receiver, EVENTS)
            .await?;

        // The record of the next one lacks the manifest: that is an image of its own, of which nothing is known.
        vetted.record("v2", json!({})).await?;
        vetted
            .actor
            .apply(daemon_set(&name, "agent", &vetted.image("v2")))
            .await?;
        let is_red = |heard: &[Heard]| heard.iter().any(|heard| type_of(heard) == RED);
        let heard = vetted.receiver.wait_for(PATIENCE, is_red).await?;
        let started: BTreeSet<String> = heard
            .iter()
            .filter(|heard| type_of(heard) == ROLLED[0])
            .filter_map(|heard| Some(heard.json()["artifact"]["fingerprint"].as_str()?.to_owned()))
            .collect();
        assert_eq!(
            started,
            BTreeSet::from([vetted.digest("v2"), manifest("v2")])
        );
        let types: Vec<_> = heard.iter().map(type_of).collect();
        assert_eq!(
            types.iter().filter(|it| *it == ROLLED[1]).count(),
            1,
            "{types:?}"
        );
        let told = description(heard.last().context("nothing heard")?);
        assert!(told.contains(&manifest("v2")[..12]), "{told}");
        assert!(!told.contains(&vetted.digest("v2")[..12]), "{told}");

        // CI lists it.
        vetted
            .record("v2", json!({"aliases": [manifest("v2")]}))
            .await?;
        vetted.actor.settled(1, 2).await?;
        vetted.is("Compliant", "Satisfied").await?;
        let mut want: Vec<&str> = types.iter().map(String::as_str).collect();
        want.push(GREEN);
        vetted.hears(&want).await?;
        let record = ["-n", &vetted.ci, "artifactprovenance", "v2"];
        let path = "{.status.runningIn[*].fingerprint} {.status.runningIn[*].compliance}";
        let there = format!("{} Compliant", vetted.digest("v2"));
        vetted.reads(&record, path, &there).await
    });
}

#[test]
fn slack_is_told_why_an_environment_is_red_and_what_made_it_green() {
    play(async |cluster| {
        let vetted = Vetted::new(cluster, "slack", "").await?;
        let slack = Receiver::start();
        slack.set_standing(Answer::from(200).body("ok"));
        let url = slack.url("/services/T0/B0/x");
        vetted.actor.secret("chat", &url).await?;
        let hook = format!("slack: {{urlFrom: {{secretKeyRef: {{name: chat}}}}}}\n{EVENTS}");
        vetted.actor.setting("chat", &hook).await?;
        vetted.actor.handled("chat").await?;
        let text = |heard: &Heard| heard.json()["text"].as_str().unwrap_or_default().to_owned();
        let title = |heard: &Heard| {
            let title = heard.json()["blocks"][0]["text"]["text"].clone();
            title.as_str().unwrap_or_default().to_owned()
        };
        vetted.roll("v2").await?;
        let heard = slack.wait_for_count(PATIENCE, 2).await?;
        let name = &vetted.actor.name;
        let (digest, image) = (vetted.digest("v2"), vetted.image("v2"));
        let red = title(&heard[1]);
        ensure!(
            red.contains(name) && red.ends_with("is Non-Compliant"),
            "{red}"
        );
        let red = text(&heard[1]);
        for part in [
            "is now Non-Compliant (was Compliant",
            &image,
            &digest[..12],
            "no provenance",
        ] {
            ensure!(red.contains(part), "no {part}: {red}");
        }
        vetted.allow("v2", json!({})).await?;
        let heard = slack.wait_for_count(PATIENCE, 4).await?;
        let allowed = text(&heard[2]);
        for part in ["allow-list", "hotfix INC-42", &digest[..12]] {
            ensure!(allowed.contains(part), "no {part}: {allowed}");
        }
        let green = title(&heard[3]);
        ensure!(green.ends_with("is Compliant again"), "{green}");
        let green = text(&heard[3]);
        for part in ["was Non-Compliant", &image, "hotfix INC-42"] {
            ensure!(green.contains(part), "no {part}: {green}");
        }
        stays(Duration::from_millis(1_500), "four messages", async || {
            let texts: Vec<_> = slack.heard().iter().map(text).collect();
            ensure!(texts.len() == 4, "{texts:#?}");
            Ok(())
        })
        .await
    });
}

#[test]
fn what_waits_says_what_was_known_when_it_happened() {
    play(async |cluster| {
        let vetted = Vetted::new(cluster, "embedded", "").await?;
        let commit = "1ac157003dd6fb9ec764daa47726b7bfed65c312";
        let known = json!({
            "name": "runner",
            "commit": {"sha": commit, "url": "https://example.com/commit/1ac1570"},
            "build": {"url": "https://example.com/builds/42"},
            "deployments": [
                {"number": 7, "environment": vetted.actor.name, "time": "2026-01-02T03:04:05Z", "buildURL": "https://example.com/builds/43"},
                {"number": 6, "environment": "another", "time": "2026-01-02T03:04:05Z"},
            ],
        });
        vetted.record("v2", known).await?;
        vetted.review("good", "v2", "approved").await?;
        let ci = vetted.ci.clone();
        let review = ["-n", &ci, "artifactapproval", "good"];
        vetted
            .reads(&review, "{.status.conditions[0].reason}", "Numbered")
            .await?;
        vetted.receiver.set_standing(503);
        vetted.roll("v2").await?;
        vetted
            .receiver
            .wait_for(PATIENCE, |heard| !heard.is_empty())
            .await?;
        vetted.receiver.stop();
        vetted.unrecord("v2").await?;
        let gone = ["-n", &ci, "delete", "artifactapproval", "good"];
        cluster.plane.kubectl(&gone).await?;
        vetted.is("Non-Compliant", "NoProvenance").await?;
        vetted.receiver.set_standing(200);
        vetted.receiver.restart()?;
        let is_red = |heard: &Heard| type_of(heard) == RED && heard.answered == 200;
        vetted
            .receiver
            .wait_for(PATIENCE, |heard| heard.iter().any(is_red))
            .await?;
        let heard = vetted.receiver.heard();
        // The same bytes under the same ids, whenever they were sent.
        all_told(&vetted.actor.sound_log().await?, &heard)?;
        let started =
            |heard: &&Heard| type_of(heard) == "ARTIFACT_STARTED" && heard.answered == 200;
        let taken = heard.iter().find(started).context("no start was taken")?;
        let artifact = &taken.json()["artifact"];
        assert_eq!(artifact["name"], "runner");
        assert_eq!(artifact["fingerprint"], vetted.digest("v2"));
        let told = &artifact["provenance"];
        for (field, want) in [
            ("flow", "web"),
            ("status", "compliant"),
            ("commit", commit),
            ("commit_url", "https://example.com/commit/1ac1570"),
            ("build_url", "https://example.com/builds/42"),
        ] {
            assert_eq!(told[field], want, "{field}");
        }
        let deployments = told["deployments"].as_array().context("no deployments")?;
        assert_eq!(deployments.len(), 1, "those to this environment");
        assert_eq!(deployments[0]["number"], "7");
        assert_eq!(deployments[0]["build_url"], "https://example.com/builds/43");
        let approvals = told["approvals"].as_array().context("no approvals")?;
        assert_eq!(approvals.len(), 1);
        assert_eq!(approvals[0]["state"], "approved");
        assert_eq!(approvals[0]["latest_reviewer"], "eve");
        Ok(())
    });
}

#[test]
fn a_status_that_says_nothing_new_is_not_written() {
    play(async |cluster| {
        let vetted = Vetted::new(cluster, "quiet", "").await?;
        let (ci, name) = (vetted.ci.clone(), vetted.actor.name.clone());
        vetted.review("good", "v1", "approved").await?;
        vetted.allow("v9", json!({})).await?;
        vetted.hears(&["ARTIFACT_ALLOWED"]).await?;
        let objects: [&[&str]; 4] = [
            &["-n", &ci, "artifactprovenance", "v1"],
            &["-n", &ci, "artifactapproval", "good"],
            &["allowedartifact", &name],
            &["environment", &name],
        ];
        vetted
            .reads(objects[0], "{.status.runningIn[*].environment}", &name)
            .await?;
        vetted
            .reads(objects[1], "{.status.conditions[0].reason}", "Numbered")
            .await?;
        vetted
            .reads(objects[2], "{.status.announced[*]}", &name)
            .await?;
        let versions = async |objects: &[&[&str]]| -> Result<Vec<String>> {
            let mut versions = vec![];
            for object in objects {
                let path = "jsonpath={.metadata.resourceVersion}";
                let args: Vec<&str> = ["get"]
                    .iter()
                    .chain(*object)
                    .chain(&["-o", path])
                    .copied()
                    .collect();
                versions.push(cluster.plane.kubectl(&args).await?);
            }
            Ok(versions)
        };
        let stand_still = async |what: &str, objects: &[&[&str]], before: &[String]| {
            stays(Duration::from_secs(2), what, async || {
                let now = versions(objects).await?;
                ensure!(now == before, "{now:?}, not {before:?}");
                Ok(())
            })
            .await
        };
        let before = versions(&objects).await?;
        // Said of an image that doesn't run.
        vetted.record("v8", json!({})).await?;
        vetted.review("other", "v8", "rejected").await?;
        vetted
            .reads(
                &["-n", &ci, "shipappr", "other"],
                "{.status.conditions[0].reason}",
                "Numbered",
            )
            .await?;
        stand_still("what other images have to do with it", &objects, &before).await?;
        let entries = vetted.actor.log().await?.len();
        // A scaling is the environment's alone.
        cluster.scale(&name, "web", 3).await?;
        vetted.actor.settled(1, 3).await?;
        stand_still("what a scaling says of images", &objects[..3], &before[..3]).await?;
        // A new link on a record changes no verdict, so nothing is recorded; its status speaks of the new generation.
        vetted
            .record(
                "v1",
                json!({"commit": {"sha": "1ac1570", "url": "https://example.com/1ac1570"}}),
            )
            .await?;
        vetted
            .reads(objects[0], "{.status.observedGeneration}", "2")
            .await?;
        let before = versions(&objects).await?;
        stand_still("what a link says", &objects, &before).await?;
        assert_eq!(
            vetted.actor.log().await?.len(),
            entries + 1,
            "the scaling alone"
        );
        Ok(())
    });
}
