//! A start that can't succeed says why, and soon.

use crate::{bare_outage, outage, watches::ENVIRONMENTS};
use anyhow::{Result, ensure};
use kit::{
    Action, Cluster, Proxy,
    stage::{Cast, operator, spawn},
};
use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

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
                args: vec!["--external-url=http://shipbell.example.com".to_owned()],
                open: "10.0.0.0/8",
                ..cast("operator-nowhere")
            },
        )
        .await?;
        ensure!(
            told.contains("can't reach the API server at https://127.0.0.1:1"),
            "{told}"
        );
        // What should not be left so is said before anything else may fail.
        for warning in [
            "the external URL is http",
            "--allow-destination 10.0.0.0/8 opens this for the settings of every namespace",
        ] {
            ensure!(told.contains(warning), "{told}");
        }

        // One that takes connections and says nothing.
        cluster.plane.pause_apiserver()?;
        let told = fails(cluster, &cast("operator-silent")).await?;
        cluster.plane.resume_apiserver()?;
        ensure!(told.contains("doesn't answer"), "{told}");
        Ok(())
    });
}

#[test]
fn kinds_that_were_installed_a_moment_ago_may_take_a_while_to_be_served() {
    outage(async |cluster| {
        let proxy = Proxy::start(&cluster.plane)?;
        let lists = Arc::new(AtomicUsize::new(0));
        let count = lists.clone();
        proxy.answer_with(move |asked| {
            if asked.follows(ENVIRONMENTS) && count.fetch_add(1, Ordering::Relaxed) < 2 {
                return Action::Answer(404, 0);
            }
            Action::Pass
        });
        let cast = Cast {
            kubeconfig: Some(proxy.kubeconfig(None)?),
            ..Cast::default()
        };
        operator(cluster, &cast).await?.still_runs()?;
        ensure!(lists.load(Ordering::Relaxed) > 2, "no test");
        Ok(())
    });
}
