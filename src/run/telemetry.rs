//! Log lines: which are written, and how.

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Writes log lines to standard error from now on.
pub(crate) fn start(config: &LogConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.filter).context("--log")?;
    // kube writes complete bodies here, which may contain a Secret.
    let filter = filter.add_directive("kube_client::client=off".parse()?);
    // It reports a certificate that is not trusted as an error of the program. The setting's status reports it already.
    let filter = filter.add_directive("rustls_platform_verifier=off".parse()?);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match config.format {
        LogFormat::Json => lines.json().init(),
        LogFormat::Text => lines.with_ansi(false).init(),
    }
    Ok(())
}
