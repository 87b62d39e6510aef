//! A cluster that is as large as Shipbell promises to hold, with no more memory than the chart gives.

use crate::attack::{Honest, LIMIT, answers_that_nobody_reads, heads_without_end};
use anyhow::{Context as _, Result, ensure};
use kit::{
    Operator, OperatorOptions, eventually,
    http1::get,
    kept_logs::kept,
    operator::binary,
    ports::Port,
    stub::{Contents, Stub},
};
use serde_json::Value;
use std::time::Duration;
use tokio::time::timeout;

/// A debug build beside other work takes about a minute.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long clients ask for answers that they do not read.
const ATTACK: Duration = Duration::from_secs(20);
/// How many pods there are, each of which has at least one container.
const PODS: usize = 150_000;

#[test]
fn a_cluster_of_150_000_pods_of_which_some_are_huge_fits_into_the_chart_s_memory_and_its_snapshot_is_read()
-> Result<()> {
    let directory = tempfile::tempdir()?;
    let directory = directory.path();
    tokio::runtime::Runtime::new()?.block_on(kept(directory, async {
        let contents = Contents {
            pods: PODS,
            large: 200,
            settings: 300,
            environments: 1,
        };
        let stub = Stub::start(contents, directory)?;
        let port = Port::reserve()?;
        let api = port.address();
        let args = [
            "run",
            "--cluster-name=test-cluster",
            "--org=acme",
            "--namespace=shipbell",
            "--log=info",
            "--api-behind-authenticating-proxy",
        ];
        let own = [
            format!("--external-url=http://{api}"),
            format!("--api-listen={api}"),
        ];
        let options = OperatorOptions {
            binary: binary()?,
            kubeconfig: stub.kubeconfig.clone(),
            args: args.map(str::to_owned).into_iter().chain(own).collect(),
            env: vec![],
            log: directory.join("operator.log"),
        };
        let mut operator = Operator::spawn_within(&options, LIMIT)?;
        operator.wait_ready(PATIENCE).await?;
        for path in [
            "/api/v2/snapshots/acme/bench-0/-1",
            "/acme/environments/bench-0/snapshots/-1",
            "/api/v2/snapshots/acme/bench-0/1",
        ] {
            let read = eventually(PATIENCE, "the snapshot to be recorded", async || {
                operator.still_runs()?;
                let (status, body) = get(api, path, None).await?;
                ensure!(status == 200, "{status} {body}");
                Ok(Some(body))
            });
            let body = read.await?;
            println!("{path}: {} bytes", body.len());
            if path.starts_with("/api/") {
                let snapshot: Value = serde_json::from_str(&body)?;
                let artifacts = snapshot["artifacts"].as_array().context("no artifacts")?;
                let run = artifacts.iter().map(|it| it["annotation"]["now"].as_u64());
                let run: u64 = run.flatten().sum();
                ensure!(run >= PODS as u64, "{run} instances");
            } else {
                ensure!(
                    body.ends_with("</table>\n</html>\n"),
                    "a page without an end"
                );
            }
        }
        // Then it is attacked by readers who take nothing of large answers, and by heads that never end.
        let everything = "/api/v2/snapshots/acme/bench-0/-1";
        let honest = Honest {
            api,
            health: operator.address(),
            path: "/api/v2/environments/acme/bench-0/events?per_page=1",
            token: "",
        };
        let unread = async {
            let unread = answers_that_nobody_reads(api, everything, "");
            timeout(ATTACK, unread).await.unwrap_or(Ok(()))
        };
        honest.reads_during("unread answers", unread).await?;
        let heads = async {
            let attackers = heads_without_end(api).await?;
            Ok(attackers.closed().await)
        };
        let (closed, _) = honest.reads_during("heads without end", heads).await?;
        ensure!(closed > 0, "no attacker was disconnected");
        // The pages of a debug build's program come on top of the limit, which is for data.
        println!("peak: {} MiB", operator.peak_memory()? >> 20);
        operator.still_runs()
    }))
}
