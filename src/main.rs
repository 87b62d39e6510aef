//! The `shipbell` binary.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use shipbell::config::{Command, Flags};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Flags {
        command: Command::Run(config),
    } = Flags::parse();
    // The one provider of cryptography. It must be chosen before anything uses TLS.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match shipbell::run::run(*config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shipbell: {error:#}");
            ExitCode::FAILURE
        }
    }
}
