#![expect(
    clippy::disallowed_methods,
    reason = "reads a file and the environment"
)]

//! The outbound client, as the configuration and the cluster require it.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use tokio::time::interval;
use tracing::{info, warn};

use crate::{
    config::OutboundConfig,
    http::{
        address_guard::Guard,
        sender::{HttpSender, ProxyConfig, SenderConfig},
    },
};

/// How often the file of extra CA certificates is read.
const CA_FILE: Duration = Duration::from_secs(30);

/// Creates the client. `api_server`: the address of the API server, if its URL contains one.
pub(crate) fn sender(
    config: &OutboundConfig,
    api_server: Option<IpAddr>,
) -> anyhow::Result<HttpSender> {
    let guard = Guard::new(&config.allow_destination, closed(config, api_server))?;
    let mut sender = SenderConfig::new(guard);
    if let Some(file) = &config.extra_ca_file {
        let pem = std::fs::read(file).with_context(|| {
            format!(
                "can't read --extra-ca-file {}; name a file with certificates (PEM)",
                file.display()
            )
        })?;
        sender.extra_ca_pem = Some(pem);
    }
    sender.proxy = ProxyConfig {
        https: config.https_proxy.clone(),
        http: config.http_proxy.clone(),
        no_proxy: config.no_proxy.clone(),
    };
    HttpSender::new(&sender).context("can't make the outbound client")
}

/// Addresses that are never a destination: the API server's, by whatever name, and the operator's own.
fn closed(config: &OutboundConfig, api_server: Option<IpAddr>) -> Vec<IpAddr> {
    let service = std::env::var("KUBERNETES_SERVICE_HOST")
        .ok()
        .and_then(|host| host.parse().ok());
    let servers = [api_server, service].into_iter().flatten();
    servers
        .chain(config.pod_ip.iter().copied())
        .filter(|ip: &IpAddr| !ip.is_loopback())
        .collect()
}

/// Trusts what the file of extra CA certificates contains by now, because a mounted ConfigMap changes.
pub(crate) async fn reload_extra_ca(sender: HttpSender, file: PathBuf) {
    let mut known = tokio::fs::read(&file).await.ok();
    let mut every = interval(CA_FILE);
    loop {
        every.tick().await;
        let pem = match tokio::fs::read(&file).await {
            Ok(pem) => pem,
            Err(error) => {
                warn!(%error, "can't read --extra-ca-file; trusting what it contained before");
                continue;
            }
        };
        if known.as_ref() == Some(&pem) {
            continue;
        }
        match sender.reload_extra_ca(&pem) {
            Ok(()) => info!("--extra-ca-file has changed and is used from now on"),
            Err(error) => {
                warn!(%error, "can't use the changed --extra-ca-file; trusting what it contained before");
            }
        }
        known = Some(pem);
    }
}
