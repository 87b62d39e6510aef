//! Every example is one that the API server takes, as it stands in its file.

use crate::{
    file,
    helm::{REQUIRED, find, objects, template},
    root, story,
};
use anyhow::{Context, Result, ensure};
use kit::{Cluster, apply, cluster::PATIENCE, eventually};
use serde_json::{Value, json};
use shipbell::api::{EventType, snapshot::VerdictReason};
use std::{fs, time::Duration};

fn examples() -> Vec<String> {
    let directory = fs::read_dir(root().join("examples")).unwrap();
    let mut names: Vec<_> = directory
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !["helm", "install"].contains(&name.as_str()))
        .collect();
    names.sort();
    assert!(names.len() >= 13, "{names:?}");
    names
}

#[test]
fn every_example_begins_with_two_lines_that_explain_it() {
    for name in examples() {
        let text = file(&format!("examples/{name}"));
        let comments = text
            .lines()
            .take_while(|line| line.starts_with("# "))
            .count();
        assert_eq!(comments, 2, "{name}");
    }
}

#[test]
fn every_example_is_taken_as_it_is() {
    story(async |cluster| {
        let namespace = cluster.namespace("examples").await?;
        trusted(cluster).await?;
        for name in examples() {
            let path = root().join("examples").join(&name);
            let mut strictly = vec![
                "apply",
                "--server-side",
                "--validate=strict",
                "-f",
                path.to_str().unwrap(),
            ];
            // Those about the trusted namespace name it themselves.
            let all = objects(&file(&format!("examples/{name}")));
            if !all
                .iter()
                .any(|object| object["metadata"]["namespace"] == CI)
            {
                strictly.extend(["-n", &namespace]);
            }
            cluster
                .plane
                .kubectl(&strictly)
                .await
                .with_context(|| name.clone())?;
        }
        columns(cluster, &namespace).await
    });
}

/// The trusted namespace of the examples.
const CI: &str = "ci";

async fn trusted(cluster: &Cluster) -> Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": CI}});
    apply(&cluster.client(), namespace).await?;
    Ok(())
}

/// The names that people type work.
async fn columns(cluster: &Cluster, namespace: &str) -> Result<()> {
    eventually(PATIENCE, "the short names", async || {
        let settings = cluster
            .plane
            .kubectl(&["get", "notifset", "-n", namespace])
            .await?;
        ensure!(settings.contains("audit"), "{settings}");
        let all = cluster
            .plane
            .kubectl(&["get", "shipbell", "-n", namespace])
            .await?;
        ensure!(all.contains("/prod") && all.contains("/slack"), "{all}");
        let said = ["get", "shipprov,shipappr,shipallow", "-n", CI];
        let said = cluster.plane.kubectl(&said).await?;
        for name in ["/runner-1ac1570", "/runner-42", "/nginx-1.27"] {
            ensure!(said.contains(name), "{said}");
        }
        Ok(())
    })
    .await
}

#[test]
fn a_setting_in_the_slack_example_is_six_lines_long() {
    let text = file("examples/slack.yaml");
    let (_, setting) = text.split_once("---\n").unwrap();
    assert_eq!(setting.lines().count(), 6);
}

#[test]
fn the_audit_asks_for_every_event_there_is() {
    let all = objects(&file("examples/audit-everything.yaml"));
    let asked: Vec<_> = all[1]["spec"]["eventTypes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event.as_str().unwrap())
        .collect();
    assert_eq!(asked, EventType::ALL.map(EventType::as_str));
}

#[test]
fn no_example_holds_a_secret_of_anyone() {
    for name in examples() {
        for object in objects(&file(&format!("examples/{name}"))) {
            for value in object["stringData"]
                .as_object()
                .into_iter()
                .flat_map(|data| data.values())
            {
                assert!(
                    value
                        .as_str()
                        .is_some_and(|text| text.contains("PASTE_THE_")),
                    "{name}: {value}"
                );
            }
            if object["kind"] != "ConfigMap" {
                assert_eq!(object["data"], Value::Null, "{name}");
            }
        }
    }
}

#[test]
fn the_example_of_values_is_one_that_the_chart_takes() {
    let values = root().join("examples/helm/values.yaml");
    let yaml = template(&["-f", values.to_str().unwrap()]).unwrap();
    assert!(yaml.contains("kind: ServiceMonitor"));
}

/// The object in one of the examples.
fn example(name: &str) -> Value {
    objects(&file(&format!("examples/{name}.yaml"))).remove(0)
}

/// The Job of CI and the rest of its file, and the record that it applies.
fn from_ci() -> (Vec<Value>, String) {
    let all = objects(&file("examples/provenance-from-ci.yaml"));
    let config = find(&all, "ConfigMap", "record-runner-1ac1570");
    let record = config["data"]["record.yaml"].as_str().unwrap().to_owned();
    (all, record)
}

#[test]
fn the_examples_of_compliance_speak_of_one_image() {
    let (all, record) = from_ci();
    let provenance = example("provenance");
    assert_eq!(objects(&record), std::slice::from_ref(&provenance));
    let (record, review) = (&provenance["spec"], &example("approval")["spec"]);
    let environment = example("environment-compliance");
    let (name, rules) = (
        &environment["metadata"]["name"],
        &environment["spec"]["compliance"],
    );
    for field in ["fingerprint", "flow"] {
        assert_eq!(record[field], review[field], "{field}");
    }
    assert_eq!(&review["environment"], name);
    assert_eq!(&record["deployments"][0]["environment"], name);
    assert_eq!(
        &example("allowed-artifact")["spec"]["environments"][0],
        name
    );
    assert_eq!(rules["provenance"]["trustedNamespaces"], json!([CI]));
    // What the record and the environment ask for is there.
    let there = record["attestations"].as_array().unwrap();
    let is_there = |name: &Value| {
        there
            .iter()
            .any(|it| &it["name"] == name && it["compliant"] == true)
    };
    let asked = record["requiredAttestations"].as_array().unwrap();
    assert!(asked.iter().all(is_there));
    let asked = rules["attestations"].as_array().unwrap();
    assert!(asked.iter().all(|rule| is_there(&rule["name"])));
    // The Job reads what the ConfigMap holds, as the account that is bound.
    let job = &find(&all, "Job", "record-runner-1ac1570")["spec"]["template"]["spec"];
    let binding = find(&all, "RoleBinding", "recorder");
    assert_eq!(job["serviceAccountName"], binding["subjects"][0]["name"]);
    assert_eq!(
        job["volumes"][0]["configMap"]["name"],
        "record-runner-1ac1570"
    );
    let mount = job["containers"][0]["volumeMounts"][0]["mountPath"]
        .as_str()
        .unwrap();
    let args = job["containers"][0]["args"].as_array().unwrap();
    assert_eq!(args.last().unwrap(), &format!("{mount}/record.yaml"));
}

#[test]
fn ci_records_with_the_rights_of_its_role_and_can_do_nothing_else() {
    story(async |cluster| {
        trusted(cluster).await?;
        let given = [
            "shipbell",
            REQUIRED[0],
            REQUIRED[1],
            "-n",
            "default",
            "--set=crds.enabled=false",
        ];
        let mut roles = objects(&template(&given)?);
        roles.retain(|object| object["metadata"]["name"] == "shipbell-ci");
        ensure!(roles.len() == 1);
        apply(&cluster.client(), roles).await?;
        let (all, record) = from_ci();
        let job = find(&all, "Job", "record-runner-1ac1570").clone();
        let setup: Vec<_> = all
            .into_iter()
            .filter(|object| object["kind"] != "Job")
            .collect();
        apply(&cluster.client(), setup).await?;

        // What the Job does, with the record from its standard input.
        let account = format!("--as=system:serviceaccount:{CI}:recorder");
        let args = job["spec"]["template"]["spec"]["containers"][0]["args"]
            .as_array()
            .unwrap();
        let mut args: Vec<_> = args.iter().map(|arg| arg.as_str().unwrap()).collect();
        *args.last_mut().unwrap() = "-";
        args.push(&account);
        // The first time nothing is there yet; the second time it is applied over itself.
        for _ in 0..2 {
            eventually(PATIENCE, "the right to record", async || {
                let applied = cluster.plane.kubectl_with_input(&args, &record).await;
                applied.map(drop)
            })
            .await?;
        }

        let kubectl = async |given: &[&str]| {
            let args = [given, &["-n", CI, &account]].concat();
            cluster.plane.kubectl(&args).await
        };
        let refused = async |given: &[&str], input: &str| -> Result<()> {
            let args = [given, &["-n", CI, &account]].concat();
            let complaint = cluster.plane.kubectl_fails(&args, input).await?;
            ensure!(
                complaint.contains("Forbidden") || complaint.contains("forbidden"),
                "{complaint}"
            );
            Ok(())
        };
        let name = "shipprov/runner-1ac1570";
        let read = kubectl(&["get", name, "-o=jsonpath={.spec.flow}"]).await?;
        ensure!(read == "runner", "{read}");
        refused(&["delete", name], "").await?;
        refused(&["get", "shipprov"], "").await?;
        let status = r#"{"status": {"state": "Compliant"}}"#;
        refused(
            &[
                "patch",
                name,
                "--subresource=status",
                "--type=merge",
                "-p",
                status,
            ],
            "",
        )
        .await?;
        // Nor may it approve what it has built, or allow it.
        let create = ["create", "-f", "-"];
        refused(&create, &file("examples/approval.yaml")).await?;
        let allow = ["create", "-f", "-", &account];
        let entry = file("examples/allowed-artifact.yaml");
        let complaint = cluster.plane.kubectl_fails(&allow, &entry).await?;
        ensure!(complaint.contains("cannot create resource"), "{complaint}");
        Ok(())
    });
}

#[test]
fn a_step_of_ci_adds_its_own_attestation_and_takes_it_away_by_leaving_it_out() {
    story(async |cluster| {
        let namespace = cluster.namespace("steps").await?;
        let mut record = example("provenance");
        record["metadata"]["namespace"] = json!(namespace);
        let attestation = |name: &str| json!({"name": name, "compliant": true});
        let step = |spec: Value| {
            let mut step = record.clone();
            step["spec"] = spec;
            step.to_string()
        };
        let applied = async |manager: &str, text: &str| {
            let manager = format!("--field-manager={manager}");
            let args = ["apply", "--server-side", &manager, "-f", "-"];
            cluster.plane.kubectl_with_input(&args, text).await
        };
        let attested = async || {
            let path = "-o=jsonpath={.spec.attestations[*].name}";
            let args = ["get", "shipprov", "runner-1ac1570", "-n", &namespace, path];
            cluster.plane.kubectl(&args).await
        };
        // Before there is a record, a step alone makes none.
        let scan = step(json!({"attestations": [attestation("snyk-scan")]}));
        let complaint = cluster
            .plane
            .kubectl_fails(&["apply", "--server-side", "-f", "-"], &scan)
            .await?;
        ensure!(
            complaint.contains("spec.fingerprint: Required value"),
            "{complaint}"
        );

        let mut build = record["spec"].clone();
        build["attestations"] = json!([attestation("unit-tests")]);
        applied("build", &step(build)).await?;
        applied("scan", &scan).await?;
        ensure!(attested().await? == "unit-tests snyk-scan");
        // Another's entry is refused.
        let theirs = json!({"name": "unit-tests", "compliant": false});
        let theirs = step(json!({"attestations": [attestation("snyk-scan"), theirs]}));
        let args = ["apply", "--server-side", "--field-manager=scan", "-f", "-"];
        let complaint = cluster.plane.kubectl_fails(&args, &theirs).await?;
        ensure!(complaint.contains("conflict with \"build\""), "{complaint}");
        // The trap.
        applied(
            "scan",
            &step(json!({"attestations": [attestation("licences")]})),
        )
        .await?;
        ensure!(attested().await? == "unit-tests licences");
        Ok(())
    });
}

#[test]
fn a_reviewer_who_is_somebody_else_is_refused_within_seconds_with_the_cure() {
    story(async |cluster| {
        let namespace = cluster.namespace("tied").await?;
        let given = [
            "tied",
            REQUIRED[0],
            REQUIRED[1],
            "-n",
            &namespace,
            "--set=crds.enabled=false",
            "--set=approvals.tieReviewerToUser=true",
            "--set=approvals.bots={system:masters,approval bots}",
        ];
        let wanted = [
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
        ];
        let mut all = objects(&template(&given)?);
        all.retain(|object| {
            wanted.contains(&object["kind"].as_str().unwrap())
                || object["metadata"]["name"] == "tied-shipbell-approver"
        });
        ensure!(all.len() == 3);
        // Without bots, too, it is one that the API server understands.
        let strict = objects(&template(&given[..given.len() - 1])?);
        let strict = find(&strict, wanted[0], "tied-shipbell-reviewer").to_string();
        let dry = ["apply", "--server-side", "--dry-run=server", "-f", "-"];
        cluster.plane.kubectl_with_input(&dry, &strict).await?;
        apply(&cluster.client(), all).await?;
        let bind = [
            "create",
            "rolebinding",
            "approvers",
            "--clusterrole=tied-shipbell-approver",
            "--group=reviewers",
            "-n",
            &namespace,
        ];
        cluster.plane.kubectl(&bind).await?;

        let mut count = 0;
        let mut review = |reviewer: &str| {
            count += 1;
            let mut review = example("approval");
            review["metadata"] = json!({"name": format!("review-{count}"), "namespace": namespace});
            review["spec"]["reviewer"] = json!(reviewer);
            review.to_string()
        };
        let alice = ["create", "-f", "-", "--as=alice", "--as-group=reviewers"];
        let complaint = eventually(Duration::from_secs(10), "the policy", async || {
            let text = review("bob");
            cluster.plane.kubectl_fails(&alice, &text).await.map(Some)
        })
        .await?;
        for words in [
            "spec.reviewer is bob, but you are alice: name yourself",
            "approvals.bots",
            "tied-shipbell-reviewer",
            "(Forbidden)",
        ] {
            ensure!(complaint.contains(words), "{words:?}: {complaint}");
        }
        // By apply as well, which for a new object is a creation.
        let by_apply = [
            "apply",
            "--server-side",
            "-f",
            "-",
            "--as=alice",
            "--as-group=system:authenticated",
        ];
        let edit = json!([
            {
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
                "metadata": {"name": "apply", "namespace": namespace},
                "rules": [{"apiGroups": ["shipbell.dev"], "resources": ["artifactapprovals"], "verbs": ["get", "create", "patch"]}],
            },
            {
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": {"name": "apply", "namespace": namespace},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "apply"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"}],
            },
        ]);
        apply(&cluster.client(), edit.as_array().unwrap().clone()).await?;
        let text = review("bob");
        eventually(PATIENCE, "the refusal of an apply", async || {
            let complaint = cluster.plane.kubectl_fails(&by_apply, &text).await?;
            ensure!(complaint.contains("but you are alice"), "{complaint}");
            Ok(())
        })
        .await?;
        // In her own name, and by a system that passes on what others said.
        cluster
            .plane
            .kubectl_with_input(&alice, &review("alice"))
            .await?;
        let bot = [
            "create",
            "-f",
            "-",
            "--as=bot",
            "--as-group=reviewers",
            "--as-group=approval bots",
        ];
        cluster
            .plane
            .kubectl_with_input(&bot, &review("bob"))
            .await?;
        // A review is neither edited nor taken back, only answered.
        let name = "review-1";
        let may_not = [
            "delete",
            "shipappr",
            name,
            "-n",
            &namespace,
            "--as=alice",
            "--as-group=reviewers",
        ];
        let complaint = cluster.plane.kubectl_fails(&may_not, "").await?;
        ensure!(complaint.contains("cannot delete"), "{complaint}");
        Ok(())
    });
}

#[test]
fn the_page_about_compliance_can_be_followed() {
    story(async |cluster| {
        trusted(cluster).await?;
        let page = file("docs/compliance.md");
        let yaml = page.split("```yaml\n").skip(1);
        let yaml = yaml.map(|part| part.split_once("```").unwrap().0);
        let all: Vec<_> = yaml.flat_map(objects).collect();
        ensure!(all.len() == 5);
        for (at, object) in all.iter().enumerate() {
            let manager = format!("--field-manager=page-{at}");
            let how = match object["metadata"]["generateName"].as_str() {
                Some(_) => vec!["create"],
                None => vec!["apply", "--server-side", "--force-conflicts"],
            };
            let args = [&how[..], &["--validate=strict", &manager, "-f", "-"]].concat();
            let text = object.to_string();
            let applied = cluster.plane.kubectl_with_input(&args, &text).await;
            applied.with_context(|| text)?;
        }
        // The second step has added to the first one's record.
        let path = "-o=jsonpath={.spec.attestations[*].name}";
        let args = ["get", "shipprov", "web-4f2a9c1", "-n", CI, path];
        let attested = cluster.plane.kubectl(&args).await?;
        ensure!(attested == "unit-tests scan", "{attested}");
        // The line that says why is one that kubectl understands.
        let line = page.split_once("jsonpath='").unwrap().1;
        let path = format!("-o=jsonpath={}", line.split_once('\'').unwrap().0);
        let status = json!({"status": {"reasons": [{
            "fingerprint": "a".repeat(64), "name": "web", "reason": "NoProvenance", "message": "says",
        }]}});
        let (name, status) = (
            all[0]["metadata"]["name"].as_str().unwrap(),
            status.to_string(),
        );
        let patch = [
            "patch",
            "shipenv",
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ];
        cluster.plane.kubectl(&patch).await?;
        let why = cluster
            .plane
            .kubectl(&["get", "shipenv", name, &path])
            .await?;
        let wanted = format!("NoProvenance\tweb\tsays\t{}\n", "a".repeat(64));
        ensure!(why == wanted, "{why}");
        Ok(())
    });
}

#[test]
fn the_page_about_compliance_names_what_there_is() {
    let page = file("docs/compliance.md");
    let roles = page.split("--clusterrole=").skip(1);
    let roles: Vec<_> = roles
        .map(|rest| rest.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(
        roles,
        ["shipbell-ci", "shipbell-approver", "shipbell-security"]
    );
    let chart = crate::helm::rendered(&[]);
    for role in roles {
        find(&chart, "ClusterRole", role);
    }
    for link in page.split("](").skip(1) {
        let path = link.split([')', '#']).next().unwrap();
        assert!(root().join("docs").join(path).exists(), "{path}");
    }
    // Every reason for which an image is not compliant is explained, and whether it may wait.
    for reason in [
        VerdictReason::NoProvenance,
        VerdictReason::UntrustedProvenance,
        VerdictReason::EvidenceMissing,
        VerdictReason::EvidenceFailed,
        VerdictReason::ApprovalMissing,
        VerdictReason::ApprovalExpired,
        VerdictReason::ApprovalRejected,
        VerdictReason::UnexpectedDeployment,
        VerdictReason::Unidentified,
    ] {
        let word = format!("`{}`", reason.as_str());
        let row = page
            .lines()
            .find(|line| line.starts_with('|') && line.contains(&word));
        let row = row.unwrap_or_else(|| panic!("{word} is not explained"));
        assert!(row.ends_with("| yes |") || row.ends_with("| no |"), "{row}");
    }
}
