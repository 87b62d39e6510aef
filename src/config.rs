#![expect(clippy::disallowed_methods, reason = "reads the environment")]

//! What the command line says, and what it means.

use std::{net::SocketAddr, path::PathBuf};

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::api::Span;

/// Shipbell rings when what runs in your cluster changes.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Flags {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator until it is told to stop.
    Run(Box<Run>),
}

/// How the operator runs. Each flag is also an environment variable.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// The cluster's name: shown in messages, and the name of the default Environment
    #[arg(long, env = "SHIPBELL_CLUSTER_NAME", value_parser = cluster_name)]
    pub cluster_name: String,

    /// The organisation in payloads and links [default: the cluster's name]
    #[arg(long, env = "SHIPBELL_ORG", value_parser = org)]
    pub org: Option<String>,

    /// The namespace that the operator runs in [default: that of its service account, or of the kubeconfig]
    #[arg(long, env = "SHIPBELL_NAMESPACE")]
    pub namespace: Option<String>,

    /// Create an Environment over all namespaces if there is none at the first start
    #[arg(long, env = "SHIPBELL_DEFAULT_ENVIRONMENT", default_value_t = true, action = ArgAction::Set)]
    pub default_environment: bool,

    /// Where /livez, /readyz and /metrics are served
    #[arg(long, env = "SHIPBELL_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// Where the read API is served, if there is an external URL
    #[arg(long, env = "SHIPBELL_API_LISTEN", default_value = "0.0.0.0:8081")]
    pub api_listen: SocketAddr,

    /// The URL under which people and tools reach the read API; without it the API is off and payloads hold no links
    #[arg(long, env = "SHIPBELL_EXTERNAL_URL", value_parser = external_url)]
    pub external_url: Option<String>,

    /// Serve the read API to everyone who reaches it: only behind a proxy that authenticates
    #[arg(long, env = "SHIPBELL_API_BEHIND_AUTHENTICATING_PROXY", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub api_behind_authenticating_proxy: bool,

    /// Open destinations that are closed by default: address ranges (10.0.0.0/8), addresses or host names, separated by commas
    #[arg(long, env = "SHIPBELL_ALLOW_DESTINATION", value_delimiter = ',')]
    pub allow_destination: Vec<String>,

    /// A file with further certificates (PEM) to trust in destinations, read again when it changes
    #[arg(long, env = "SHIPBELL_EXTRA_CA_FILE")]
    pub extra_ca_file: Option<PathBuf>,

    /// The proxy for https destinations
    #[arg(long, env = "HTTPS_PROXY", hide_env_values = true)]
    pub https_proxy: Option<String>,

    /// The proxy for http destinations
    #[arg(long, env = "HTTP_PROXY", hide_env_values = true)]
    pub http_proxy: Option<String>,

    /// Hosts that are reached without a proxy, separated by commas
    #[arg(long, env = "NO_PROXY", default_value = "")]
    pub no_proxy: String,

    /// The address of the operator's own pod, which is closed as a destination
    #[arg(long, env = "SHIPBELL_POD_IP")]
    pub pod_ip: Option<std::net::IpAddr>,

    /// The ClusterRole that lets the operator read Secrets where it is bound: named in advice
    #[arg(
        long,
        env = "SHIPBELL_SECRETS_ROLE",
        default_value = "shipbell-secrets"
    )]
    pub secrets_role: String,

    /// The operator's service account: named in advice
    #[arg(long, env = "SHIPBELL_SERVICE_ACCOUNT", default_value = "shipbell")]
    pub service_account: String,

    /// Which log lines are written, as in `info` or `shipbell=debug,warn`
    #[arg(long, env = "SHIPBELL_LOG", default_value = "info")]
    pub log: String,

    /// How log lines are written: text or json
    #[arg(long, env = "SHIPBELL_LOG_FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub log_format: String,

    /// What tests make shorter.
    #[command(flatten)]
    pub tuning: Tuning,
}

/// Times that nobody but a test has a reason to change.
#[derive(Clone, Debug, Args)]
pub struct Tuning {
    /// What a watch lost is found by a new list after so long
    #[arg(long, default_value = "30m", hide = true)]
    pub relist_interval: Span,

    /// The number of pods is compared with what is known of them this often
    #[arg(long, default_value = "5m", hide = true)]
    pub check_interval: Span,

    /// A watch that is silent for so long is dead
    #[arg(long, default_value = "150s", hide = true)]
    pub watch_idle: Span,
}

impl Run {
    /// The name of the pod, as its host name tells.
    pub fn pod_name(&self) -> Option<String> {
        std::env::var("HOSTNAME").ok()
    }
}

fn cluster_name(text: &str) -> Result<String, String> {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if text.len() <= 63
        && text.chars().all(valid)
        && ends(text.chars().next())
        && ends(text.chars().last())
    {
        return Ok(text.to_owned());
    }
    Err("a name of at most 63 lower-case letters, digits and dashes, as in aws-prod".to_owned())
}

fn org(text: &str) -> Result<String, String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~');
    if !text.is_empty() && text.len() <= 63 && text.chars().all(valid) {
        return Ok(text.to_owned());
    }
    Err("a name of at most 63 letters, digits, dashes, dots, tildes and underscores: it is a part of URLs".to_owned())
}

fn external_url(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text)
        .map_err(|error| format!("{error}; a URL is needed, as in https://shipbell.example.com"))?;
    if !matches!(url.scheme(), "http" | "https")
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err("an http or https URL without query and fragment is needed".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Result<Run, String> {
        let all = ["shipbell", "run"].iter().chain(arguments);
        match Flags::try_parse_from(all) {
            Ok(Flags {
                command: Command::Run(run),
            }) => Ok(*run),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_cluster_name_is_all_that_has_to_be_given() {
        let flags = run(&["--cluster-name", "aws-prod"]).unwrap();
        assert!(flags.default_environment);
        assert_eq!(flags.external_url, None);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_cure() {
        for (arguments, cure) in [
            (vec!["--cluster-name", "AWS prod"], "lower-case letters"),
            (
                vec!["--cluster-name", "a", "--org", "x/y"],
                "a part of URLs",
            ),
            (
                vec![
                    "--cluster-name",
                    "a",
                    "--external-url",
                    "shipbell.example.com",
                ],
                "https://shipbell.example.com",
            ),
            (
                vec!["--cluster-name", "a", "--external-url", "ftp://x"],
                "an http or https URL",
            ),
            (vec![], "--cluster-name"),
        ] {
            let error = run(&arguments).unwrap_err();
            assert!(error.contains(cure), "{error}");
        }
    }
}
