//! A cluster that is as large as Shipbell promises to hold, with no more memory than the chart gives.

use crate::attack::LIMIT;
use anyhow::Result;
use kit::{
    Operator, OperatorOptions, eventually,
    operator::binary,
    stub::{Contents, Stub},
};
use std::time::Duration;

/// A debug build beside other work takes about a minute.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn a_cluster_of_150_000_pods_of_which_some_are_huge_fits_into_the_chart_s_memory() -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let directory = tempfile::tempdir()?;
        let contents = Contents {
            pods: 150_000,
            large: 200,
            environments: 1,
        };
        let stub = Stub::start(contents, directory.path())?;
        let options = OperatorOptions {
            binary: binary()?,
            kubeconfig: stub.kubeconfig.clone(),
            args: [
                "run",
                "--cluster-name=test-cluster",
                "--org=acme",
                "--namespace=shipbell",
                "--log=info",
            ]
            .map(str::to_owned)
            .into(),
            env: vec![],
            log: directory.path().join("operator.log"),
        };
        let mut operator = Operator::spawn_within(&options, LIMIT)?;
        operator.wait_ready(PATIENCE).await?;
        eventually(PATIENCE, "the first snapshot", async || {
            operator.still_runs()?;
            anyhow::ensure!(!stub.created("environmentsnapshots").is_empty());
            Ok(())
        })
        .await?;
        println!("peak: {} MiB", operator.peak_memory()? >> 20);
        operator.still_runs()
    })
}
