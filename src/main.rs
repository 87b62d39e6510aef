//! The `shipbell` binary.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use shipbell::config::{Command, Flags};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Flags { command } = Flags::parse();
    // The one provider of cryptography. It must be chosen before anything uses TLS.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let result = match command {
        Command::Run(config) => shipbell::run::run(*config).await,
        Command::TestDelivery(config) => shipbell::run::test_delivery::run(config).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shipbell: {error:#}");
            ExitCode::FAILURE
        }
    }
}
