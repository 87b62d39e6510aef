//! A start that can't succeed says why, and soon.

use crate::bare_outage;
use anyhow::{Result, ensure};
use kit::{
    Cluster,
    stage::{Cast, spawn},
};
use std::{fs, time::Duration};

/// Starts an operator that must fail; what it says.
async fn fails(cluster: &Cluster, cast: &Cast) -> Result<String> {
    let mut operator = spawn(cluster, cast)?;
    let status = operator.ended(Duration::from_secs(20)).await?;
    ensure!(!status.success(), "it ended well: {}", operator.log_text());
    Ok(operator.log_text())
}

#[test]
fn a_start_that_cannot_succeed_says_why() {
    bare_outage(async |cluster| {
        let cast = |name: &str| Cast {
            name: name.to_owned(),
            ..Cast::default()
        };
        let told = fails(cluster, &cast("operator-bare")).await?;
        ensure!(
            told.contains("kubectl apply --server-side -f crds/"),
            "{told}"
        );

        let told = fails(
            cluster,
            &Cast {
                args: vec!["--external-url=shipbell.example".to_owned()],
                ..cast("operator-flags")
            },
        )
        .await?;
        ensure!(told.contains("https://shipbell.example.com"), "{told}");

        // A port on which nobody listens.
        let admin = fs::read_to_string(cluster.plane.admin_kubeconfig())?;
        let nowhere = cluster.plane.directory().join("nowhere.kubeconfig");
        fs::write(
            &nowhere,
            admin.replace(&cluster.plane.url(), "https://127.0.0.1:1"),
        )?;
        let told = fails(
            cluster,
            &Cast {
                kubeconfig: Some(nowhere),
                ..cast("operator-nowhere")
            },
        )
        .await?;
        ensure!(
            told.contains("can't reach the API server at https://127.0.0.1:1"),
            "{told}"
        );

        // One that takes connections and says nothing.
        cluster.plane.pause_apiserver()?;
        let told = fails(cluster, &cast("operator-silent")).await?;
        cluster.plane.resume_apiserver()?;
        ensure!(told.contains("doesn't answer"), "{told}");
        Ok(())
    });
}
