//! examples/install/shipbell.yaml: the chart, rendered, for those who don't use helm.

use crate::{alone, file, helm::template, root};
use anyhow::{Context as _, ensure};
use expect_test::expect_file;
use serde_json::Value;
use std::{fmt::Write as _, process::Command};

const HEADER: &str = "\
# Shipbell for those who don't use helm: what the chart makes, with every value at its default, but without `helm test`. Two names stand in for
# yours, that of the cluster, as people call it, and that of the image that you have built and pushed:
#
#   sed -e 's|my-cluster|aws-prod|' -e 's|registry.example.com/shipbell|registry.acme.example/shipbell|' \\
#     examples/install/shipbell.yaml | kubectl apply --server-side -f -
#
# To let settings of another namespace keep their URLs in Secrets there, apply the RoleBinding shipbell-settings in that
# namespace, too. For any other value render the chart: helm template shipbell charts/shipbell --set ...
#
# `make generate` writes this file.
---
apiVersion: v1
kind: Namespace
metadata:
  name: shipbell
";

/// What the file has to be.
fn expected() -> String {
    let mut text = HEADER.to_owned();
    let rendered = template(&[
        "--set=clusterName=my-cluster",
        "--set=image.repository=registry.example.com/shipbell",
        "--set=test.enabled=false",
    ]);
    for line in rendered.unwrap().lines() {
        // Without helm it is not managed by helm, and where each object stands in the chart is of no use.
        let of_helm = [
            "app.kubernetes.io/managed-by:",
            "helm.sh/chart:",
            "# Source:",
        ];
        if !of_helm.iter().any(|key| line.trim_start().starts_with(key)) {
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    text
}

#[test]
fn the_install_file_is_what_the_chart_makes() {
    expect_file!["../../examples/install/shipbell.yaml"].assert_eq(&expected());
}

#[test]
fn the_command_in_the_install_file_installs_it() {
    alone(async |cluster| {
        let header = file("examples/install/shipbell.yaml");
        let lines = header
            .lines()
            .skip_while(|line| !line.starts_with("#   sed "));
        let lines = lines.map_while(|line| line.strip_prefix("#   "));
        let command = lines.collect::<Vec<_>>().join("\n");
        let (edit, apply) = command.split_once(" | kubectl ").context("no kubectl")?;
        let edited = Command::new("sh")
            .args(["-c", edit])
            .current_dir(root())
            .output()?;
        let complaint = String::from_utf8_lossy(&edited.stderr);
        ensure!(edited.status.success(), "{edit}: {complaint}");
        let edited = String::from_utf8(edited.stdout)?;
        ensure!(!edited.contains("my-cluster") && !edited.contains("registry.example.com"));

        let apply: Vec<_> = apply.split(' ').chain(["--validate=strict"]).collect();
        cluster.plane.kubectl_with_input(&apply, &edited).await?;
        cluster.rolled_out("shipbell", "shipbell").await?;
        let get = ["get", "deployment", "shipbell", "-n", "shipbell", "-o=json"];
        let deployment: Value = serde_json::from_str(&cluster.plane.kubectl(&get).await?)?;
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        ensure!(
            container["image"] == "registry.acme.example/shipbell:0.1.0",
            "{container}"
        );
        let environment = container["env"].as_array().context("no variables")?;
        let name = environment
            .iter()
            .find(|variable| variable["name"] == "SHIPBELL_CLUSTER_NAME")
            .context("no cluster name")?;
        ensure!(name["value"] == "aws-prod", "{name}");
        Ok(())
    });
}
