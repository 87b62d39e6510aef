#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Finds the cluster and connects to it.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, bail};
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::{Api, Client, Config, api::ListParams};
use tokio::time::{Instant, sleep, timeout};

use crate::api::Environment;

/// How long to wait for the API server's first answers.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the API server may take to serve kinds that were installed a moment ago, by the same chart.
const SERVED: Duration = Duration::from_secs(5);
/// How long to wait before the kinds are asked for again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a connection may take before it is tried again.
const CONNECT: Duration = Duration::from_secs(15);
/// How long a connection may be silent before it counts as dead: even the quietest watch gets a bookmark each minute.
const SILENCE: Duration = Duration::from_secs(150);

/// Finds the cluster: by the service account of the pod, or by a kubeconfig.
pub(crate) async fn find() -> anyhow::Result<Config> {
    let mut config = Config::infer().await.context(
        "can't find a cluster: neither a service account nor a kubeconfig; set KUBECONFIG, or run in a pod",
    )?;
    config.proxy_url = None; // proxies are only for destinations
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    Ok(config)
}

/// The address of the API server, if its URL contains one.
pub(crate) fn address(config: &Config) -> Option<IpAddr> {
    let host = config.cluster_url.host()?;
    host.trim_matches(['[', ']']).parse().ok()
}

/// Connects, and checks that the API server answers and has the kinds.
pub(crate) async fn connect(config: Config) -> anyhow::Result<(Client, Info)> {
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).context("can't make a client for the cluster")?;
    let version = timeout(ANSWER, client.apiserver_version())
        .await
        .with_context(|| format!("the API server at {server} doesn't answer"))?;
    let version = version.with_context(|| format!("can't reach the API server at {server}"))?;
    check_installed(&client).await?;
    Ok((client, version))
}

/// Whether the server counts the generation of pods. From 1.35 on it does, so 1 means that the pod was never edited.
pub(crate) fn counts_pod_generations(version: &Info) -> bool {
    let digits = version.minor.chars().take_while(char::is_ascii_digit);
    let minor: u32 = digits.collect::<String>().parse().unwrap_or(0);
    minor >= 35
}

/// Checks that the kinds are installed. Without them everything would fail later, with errors that do not say why.
async fn check_installed(client: &Client) -> anyhow::Result<()> {
    let api: Api<Environment> = Api::all(client.clone());
    let one = ListParams::default().limit(1);
    let until = Instant::now() + SERVED;
    let listed = loop {
        let listed = timeout(ANSWER, api.list_metadata(&one));
        match listed.await.context("the API server doesn't answer")? {
            Err(kube::Error::Api(status)) if status.code == 404 && Instant::now() < until => {
                sleep(AGAIN).await;
            }
            listed => break listed,
        }
    };
    match listed {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            bail!(
                "the kinds of shipbell.dev are not installed: kubectl apply --server-side -f crds/, or the chart with crds.enabled=true"
            )
        }
        Err(kube::Error::Api(status)) if status.code == 403 => {
            bail!(
                "the operator may not list environments.shipbell.dev: its ClusterRole is missing or not bound ({})",
                status.message
            )
        }
        Err(error) => Err(error).context("can't list environments.shipbell.dev"),
    }
}
