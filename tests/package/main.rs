//! What is shipped: the chart, the image, the examples and the documentation, each tried the way a user does.

#![allow(clippy::unwrap_used)]

mod argocd;
mod chart;
mod defaults;
mod docs;
mod examples;
mod helm;
mod image;
mod install;
mod install_file;
mod judges;
mod limits;
mod needs;
mod numbers;
mod properties;
mod release_test;
mod rights;

use anyhow::Result;
use kit::{Cluster, PlaneOptions, cluster::runtime, kept_logs::kept};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// The top of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// A file of the repository.
fn file(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cluster that the tests share, with our kinds, and with the controller that adds to the roles view and edit.
fn story(test: impl AsyncFnOnce(&'static Cluster) -> Result<()>) {
    static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let started = SHARED.get_or_init(|| {
        let start = async {
            let cluster = start().await?;
            let crds = root().join("crds");
            let crds = crds.to_str().unwrap();
            cluster
                .plane
                .kubectl(&["apply", "--server-side", "-f", crds])
                .await?;
            let established = [
                "wait",
                "--for=condition=Established",
                "--timeout=60s",
                "-f",
                crds,
            ];
            cluster.plane.kubectl(&established).await?;
            anyhow::Ok(cluster)
        };
        runtime()
            .block_on(start)
            .map_err(|error| format!("{error:#}"))
    });
    let cluster = started.as_ref().unwrap_or_else(|error| panic!("{error}"));
    let test = kept(cluster.plane.directory(), test(cluster));
    if let Err(error) = runtime().block_on(test) {
        panic!("{error:#}");
    }
}

/// Runs a test on a cluster of its own, without anything of ours.
fn alone(test: impl AsyncFnOnce(&Cluster) -> Result<()>) {
    let run = async {
        let cluster = start().await?;
        kept(cluster.plane.directory(), test(&cluster)).await
    };
    if let Err(error) = runtime().block_on(run) {
        panic!("{error:#}");
    }
}

/// A cluster without anything of ours.
async fn start() -> Result<Cluster> {
    Cluster::start(PlaneOptions {
        audit: true,
        controllers: vec!["clusterrole-aggregation-controller".to_owned()],
        ..PlaneOptions::default()
    })
    .await
}
