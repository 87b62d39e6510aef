//! Log lines: which are written, and how.

use anyhow::Context as _;
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::filter_fn, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{
    config::{LogConfig, LogFormat},
    http::logging::may_be_logged,
};

/// Writes log lines to standard error from now on.
pub(crate) fn start(config: &LogConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log).context("--log")?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.log_format {
        LogFormat::Json => lines.json().boxed(),
        LogFormat::Text => lines.with_ansi(false).boxed(),
    };
    tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        // Apart from the flag, so that no value of it lets a secret through.
        .with(filter_fn(|line| may_be_logged(line.target())))
        .init();
    Ok(())
}
