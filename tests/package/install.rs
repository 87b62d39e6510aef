//! The life of an installation: install, use, upgrade, uninstall, with Helm and as the administrator of a real control plane.

use crate::{
    alone,
    helm::{REQUIRED, chart, helm_at, template},
    image, root, story,
};
use anyhow::{Context, Result, ensure};
use kit::{Cluster, Operator, OperatorOptions, cluster::PATIENCE, eventually};
use serde_json::Value;
use std::{fs, path::Path};

pub const RESTRICTED: (&str, &str) = ("pod-security.kubernetes.io/enforce", "restricted");
const KINDS: [&str; 6] = [
    "environments.shipbell.dev",
    "environmentsnapshots.shipbell.dev",
    "notificationsettings.shipbell.dev",
    "artifactprovenances.shipbell.dev",
    "artifactapprovals.shipbell.dev",
    "allowedartifacts.shipbell.dev",
];

#[test]
fn what_the_chart_renders_is_taken_in_strict_mode_and_its_pods_run_under_the_restricted_standard() {
    story(async |cluster| {
        let namespace = cluster.labelled_namespace("strict", &[RESTRICTED]).await?;
        let team = cluster.namespace("strict-team").await?;
        let settings = format!("--set=settingsNamespaces={{{team}}}");
        let yaml = template(&[
            "strict",
            REQUIRED[0],
            REQUIRED[1],
            "-n",
            &namespace,
            // Helm alone creates these, one after the other.
            "--skip-tests",
            &settings,
            "--set=externalUrl=https://shipbell.example.com",
            "--set=extraCA.configMap=authorities",
            "--set=networkPolicy.enabled=true",
            "--set-json=networkPolicy.egress=[{\"ports\": [{\"port\": 443}]}]",
            "--set=tolerations[0].operator=Exists",
            "--set=podLabels.team=platform",
            "--set=podAnnotations.note=x",
            "--set=proxy.noProxy={.internal.example.com}",
            "--set=extraEnv[0].name=HTTPS_PROXY,extraEnv[0].valueFrom.secretKeyRef.name=proxy,extraEnv[0].valueFrom.secretKeyRef.key=url",
        ])?;
        let dry = [
            "apply",
            "--server-side",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            "-",
        ];
        cluster.plane.kubectl_with_input(&dry, &yaml).await?;
        let wet = ["apply", "--server-side", "--validate=strict", "-f", "-"];
        cluster.plane.kubectl_with_input(&wet, &yaml).await?;
        cluster.rolled_out(&namespace, "strict-shipbell").await?;
        // The standard is enforced, so that this says something.
        let privileged = [
            "run",
            "root",
            "--image=registry.example.com/root",
            "-n",
            &namespace,
        ];
        let refused = cluster.plane.kubectl_fails(&privileged, "").await?;
        ensure!(refused.contains("violates PodSecurity"), "{refused}");
        Ok(())
    });
}

/// A cluster, and a release in a namespace of it.
struct Site<'a> {
    cluster: &'a Cluster,
    namespace: String,
}

impl Site<'_> {
    fn helm(&self, args: &[&str]) -> Result<String> {
        let all = [args, &["-n", &self.namespace]].concat();
        helm_at(&self.cluster.plane.admin_kubeconfig(), &all)
    }

    fn put(&self, verb: &str, release: &str, chart: &str, more: &[&str]) -> Result<String> {
        let args = [
            verb,
            release,
            chart,
            "--wait",
            "--timeout=60s",
            REQUIRED[0],
            REQUIRED[1],
        ];
        self.helm(&[&args[..], more].concat())
    }

    async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.cluster.plane.kubectl(args).await
    }

    /// The UIDs of an Environment and a `NotificationSetting`.
    async fn uids(&self) -> Result<[String; 2]> {
        let uid = "-o=jsonpath={.metadata.uid}";
        let environment = self.kubectl(&["get", "shipenv", "prod", uid]).await?;
        let setting = self
            .kubectl(&["get", "notifset", "slack", "-n", &self.namespace, uid])
            .await?;
        ensure!(!environment.is_empty() && !setting.is_empty());
        Ok([environment, setting])
    }

    /// How many of our definitions there are.
    async fn definitions(&self) -> Result<usize> {
        let all = self.kubectl(&["get", "crd", "-o=name"]).await?;
        Ok(KINDS.iter().filter(|kind| all.contains(*kind)).count())
    }

    /// What else carries the release's label.
    async fn leavings(&self) -> Result<String> {
        let kinds = "deployments,services,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,configmaps,validatingadmissionpolicies,validatingadmissionpolicybindings";
        let label = "-l=app.kubernetes.io/name=shipbell";
        self.kubectl(&["get", kinds, "-A", "-o=name", label]).await
    }
}

/// The text between a line that holds `from` and the line `EOF`, without its indentation.
fn here_document(notes: &str, from: &str) -> String {
    let lines = notes
        .lines()
        .skip_while(|line| !line.contains(from))
        .skip(1);
    let lines = lines.take_while(|line| line.trim() != "EOF");
    let lines: Vec<_> = lines
        .map(|line| line.strip_prefix("  ").unwrap_or(line))
        .collect();
    lines.join("\n")
}

#[test]
fn an_installation_can_be_used_upgraded_and_removed_without_losing_what_users_made() {
    alone(async |cluster| {
        let namespace = cluster
            .labelled_namespace("shipbell", &[RESTRICTED])
            .await?;
        let site = Site { cluster, namespace };

        // Install. The notes can be followed to the letter.
        let notes = site.put(
            "install",
            "shipbell",
            &chart(),
            &["--set=defaultEnvironment=false"],
        )?;
        let line = format!("kubectl -n {} create secret generic slack", site.namespace);
        ensure!(
            notes.contains(&line) && notes.contains("kubectl get shipenv"),
            "{notes}"
        );
        let settings = format!("kubectl -n {} apply -f - <<'EOF'", site.namespace);
        let setting = here_document(&notes, &settings);
        ensure!(setting.lines().count() == 6, "{notes}");
        let apply = ["-n", &site.namespace, "apply", "-f", "-"];
        site.cluster
            .plane
            .kubectl_with_input(&apply, &setting)
            .await?;
        let environment =
            here_document(&notes, "kubectl apply -f - <<'EOF'").replace("aws-prod", "prod");
        site.cluster
            .plane
            .kubectl_with_input(&apply, &environment)
            .await?;
        let uids = site.uids().await?;
        // So can the rules that they propose.
        let (_, rules) = notes.split_once("-p '").context("no rules in the notes")?;
        let rules = rules.split_once('\'').context("no end of the rules")?.0;
        let patch = ["patch", "shipenv", "prod", "--type=merge", "-p", rules];
        site.kubectl(&patch).await?;
        let role = "--clusterrole=shipbell-ci ";
        ensure!(
            notes.contains(role) && notes.contains("docs/compliance.md"),
            "{notes}"
        );

        // Upgrade, to a release that adds to a definition.
        let newer = newer_chart()?;
        let tied = "--set=approvals.tieReviewerToUser=true";
        site.put(
            "upgrade",
            "shipbell",
            newer.path().to_str().unwrap(),
            &[tied],
        )?;
        let columns = site
            .kubectl(&[
                "get",
                "crd",
                KINDS[0],
                "-o=jsonpath={.spec.versions[0].additionalPrinterColumns[*].name}",
            ])
            .await?;
        ensure!(columns.contains("Novelty"), "{columns}");
        ensure!(site.uids().await? == uids);

        // Uninstall: the definitions stay, and what users made with them; nothing else does.
        site.helm(&["uninstall", "shipbell", "--wait"])?;
        ensure!(site.definitions().await? == KINDS.len());
        ensure!(site.uids().await? == uids);
        let leavings = site.leavings().await?;
        ensure!(leavings.is_empty(), "{leavings}");

        // The same release again takes them up. Another one has to say that it wants them.
        site.put("install", "shipbell", &chart(), &[])?;
        ensure!(site.uids().await? == uids);
        site.helm(&["uninstall", "shipbell", "--wait"])?;
        let refused = site
            .put("install", "bell", &chart(), &[])
            .unwrap_err()
            .to_string();
        ensure!(refused.contains("invalid ownership metadata"), "{refused}");
        site.put("install", "bell", &chart(), &["--take-ownership"])?;
        ensure!(site.uids().await? == uids);

        // Without `keep` the definitions go, and all that was made with them.
        site.put("upgrade", "bell", &chart(), &["--set=crds.keep=false"])?;
        site.helm(&["uninstall", "bell", "--wait"])?;
        eventually(PATIENCE, "the definitions to be gone", async || {
            let left = site.definitions().await?;
            ensure!(left == 0, "{left} are left");
            Ok(())
        })
        .await?;
        let leavings = site.leavings().await?;
        ensure!(leavings.is_empty(), "{leavings}");
        Ok(())
    });
}

/// A copy of the chart that is a release ahead and has a further column.
fn newer_chart() -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    copy(&root().join("charts/shipbell"), directory.path())?;
    let edit = |file: &str, from: &str, to: &str| -> Result<()> {
        let path = directory.path().join(file);
        let text = fs::read_to_string(&path)?;
        ensure!(text.contains(from), "{file} has no {from:?}");
        Ok(fs::write(path, text.replacen(from, to, 1))?)
    };
    edit("Chart.yaml", "\nversion: ", "\nversion: 1")?;
    let columns = "  - additionalPrinterColumns:\n";
    let column = format!(
        "{columns}    - jsonPath: .metadata.uid\n      name: Novelty\n      type: string\n"
    );
    edit("templates/crds/environments.yaml", columns, &column)?;
    Ok(directory)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

#[test]
fn the_static_operator_works_with_the_rights_and_variables_of_its_chart() {
    alone(async |cluster| {
        let namespace = cluster.namespace("shipbell").await?;
        let site = Site { cluster, namespace };
        let notes = site.put("install", "shipbell", &chart(), &[])?;
        ensure!(
            !notes.contains("kind: Environment"),
            "there is a default one: {notes}"
        );

        let kubeconfig = site
            .cluster
            .plane
            .service_account_kubeconfig(&site.namespace, "shipbell")
            .await?;
        let deployment = site
            .kubectl(&[
                "get",
                "deployment",
                "shipbell",
                "-o=json",
                "-n",
                &site.namespace,
            ])
            .await?;
        let deployment: Value = serde_json::from_str(&deployment)?;
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        let args = serde_json::from_value(container["args"].clone())?;
        let variables = container["env"].as_array().context("no variables")?;
        let env = variables.iter().map(|variable| {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("metadata.namespace") => &site.namespace,
                Some(_) => "10.1.2.3",
                None => variable["value"].as_str().unwrap(),
            };
            (
                variable["name"].as_str().unwrap().to_owned(),
                value.to_owned(),
            )
        });
        let options = OperatorOptions {
            binary: image::binary()?,
            kubeconfig,
            args,
            env: env.collect(),
            log: site.cluster.plane.directory().join("operator.log"),
        };
        let mut operator = Operator::spawn(&options)?;
        operator.wait_ready(PATIENCE).await?;
        eventually(
            PATIENCE,
            "the default Environment to be recorded",
            async || {
                let head = site
                    .kubectl(&[
                        "get",
                        "shipenv",
                        "aws-prod",
                        "-o=jsonpath={.status.head.index}",
                    ])
                    .await?;
                ensure!(head == "1", "its head is {head:?}");
                Ok(())
            },
        )
        .await
        .with_context(|| operator.log_text())?;
        let log = operator.log_text();
        ensure!(!log.contains("ERROR"), "{log}");
        operator.terminate(PATIENCE).await?;

        // It was created once: a deleted one stays deleted.
        site.kubectl(&["delete", "shipenv", "aws-prod"]).await?;
        let mut again = Operator::spawn(&options)?;
        eventually(PATIENCE, "the operator to look for one", async || {
            again.still_runs()?;
            ensure!(again.log_text().contains("is not created again"));
            Ok(())
        })
        .await?;
        let left = site.kubectl(&["get", "shipenv", "-o=name"]).await?;
        ensure!(left.is_empty(), "{left}");
        again.terminate(PATIENCE).await?;
        let account = format!("system:serviceaccount:{}:shipbell", site.namespace);
        let (asked, refused) = asked(site.cluster, &account)?;
        ensure!(asked > 10 && refused.is_empty(), "{asked}: {refused:?}");
        Ok(())
    });
}

/// How much somebody has asked of the API server, and what it refused.
pub fn asked(cluster: &Cluster, user: &str) -> Result<(usize, Vec<String>)> {
    let log = fs::read_to_string(cluster.plane.audit_log())?;
    let lines = log.lines().filter(|line| line.contains(user));
    let (forbidden, all): (Vec<_>, Vec<_>) = lines
        .map(str::to_owned)
        .partition(|line| line.contains(r#""authorization.k8s.io/decision":"forbid""#));
    Ok((all.len(), forbidden))
}
