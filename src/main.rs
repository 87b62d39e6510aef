//! The `shipbell` binary.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use shipbell::config::{Command, Flags};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Flags {
        command: Command::Run(flags),
    } = Flags::parse();
    // One provider of cryptography, chosen before anything can ask for another.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match shipbell::run::run(*flags).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shipbell: {error:#}");
            ExitCode::FAILURE
        }
    }
}
