#![expect(clippy::disallowed_methods, reason = "reads the environment")]

//! The command line and the environment, and the checked configuration that results from them.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use secrecy::SecretString;
use tracing_subscriber::EnvFilter;

use crate::{api::Span, http::guard::Guard};

/// Shipbell rings when what runs in your cluster changes.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Flags {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of the program.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator until it gets a signal to stop
    Run(Box<RunFlags>),
}

/// How the operator runs. Each flag is also an environment variable.
#[derive(Clone, Debug, Args)]
pub struct RunFlags {
    /// The cluster's name: shown in messages, and the name of the default Environment
    #[arg(long, env = "SHIPBELL_CLUSTER_NAME", value_parser = cluster_name)]
    pub cluster_name: String,

    /// The organisation in payloads and links [default: the cluster's name]
    #[arg(long, env = "SHIPBELL_ORG", value_parser = org)]
    pub org: Option<String>,

    /// The namespace that the operator runs in [default: that of its service account, or of the kubeconfig]
    #[arg(long, env = "SHIPBELL_NAMESPACE")]
    pub namespace: Option<String>,

    /// Create an Environment with all namespaces if there is none at the first start
    #[arg(long, env = "SHIPBELL_DEFAULT_ENVIRONMENT", default_value_t = true, action = ArgAction::Set)]
    pub default_environment: bool,

    /// The address of /livez, /readyz and /metrics
    #[arg(long, env = "SHIPBELL_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// The address of the read API, if there is an external URL
    #[arg(long, env = "SHIPBELL_API_LISTEN", default_value = "0.0.0.0:8081")]
    pub api_listen: SocketAddr,

    /// The URL of the read API for people and tools; without it the API is off, and messages contain no links
    #[arg(long, env = "SHIPBELL_EXTERNAL_URL", value_parser = external_url)]
    pub external_url: Option<String>,

    /// Serve the read API to everybody who reaches it; only for use behind a proxy that authenticates
    #[arg(long, env = "SHIPBELL_API_BEHIND_AUTHENTICATING_PROXY", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub api_behind_authenticating_proxy: bool,

    /// Destinations to open that are closed by default: address ranges (10.0.0.0/8), addresses or host names, separated by commas
    #[arg(long, env = "SHIPBELL_ALLOW_DESTINATION", value_delimiter = ',', value_parser = allowed_destination)]
    pub allow_destination: Vec<String>,

    /// A file with further certificates (PEM) that are trusted for destinations, read again when it changes
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

    /// The address of the operator's own pod, which is never a destination
    #[arg(long, env = "SHIPBELL_POD_IP")]
    pub pod_ip: Option<IpAddr>,

    /// The ClusterRole that allows the operator to read Secrets; messages about missing rights name it
    #[arg(
        long,
        env = "SHIPBELL_SECRETS_ROLE",
        default_value = "shipbell-secrets"
    )]
    pub secrets_role: String,

    /// The operator's service account; messages about missing rights name it
    #[arg(long, env = "SHIPBELL_SERVICE_ACCOUNT", default_value = "shipbell")]
    pub service_account: String,

    /// Which log lines are written: a level such as `info`, or a filter such as `shipbell=debug,warn`
    #[arg(long, env = "SHIPBELL_LOG", default_value = "info", value_parser = log_filter)]
    pub log: String,

    /// How log lines are written
    #[arg(long, env = "SHIPBELL_LOG_FORMAT", default_value = "text", value_enum)]
    pub log_format: LogFormat,

    /// Times that only tests change.
    #[command(flatten)]
    pub tuning: Tuning,
}

/// Times that only tests change.
#[derive(Clone, Debug, Args)]
pub struct Tuning {
    /// How often everything is listed again, to find what a watch missed
    #[arg(long, default_value = "30m", hide = true)]
    pub relist_interval: Span,

    /// How often the number of pods is compared with the number of known pods
    #[arg(long, default_value = "5m", hide = true)]
    pub check_interval: Span,

    /// How long a watch may be silent before it counts as dead
    #[arg(long, default_value = "150s", hide = true)]
    pub watch_idle: Span,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The configuration of the operator, checked and with its defaults.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The name of the cluster.
    pub cluster_name: String,
    /// The organisation in payloads and links.
    pub org: String,
    /// The namespace of the operator; `None`: that of the service account or the kubeconfig.
    pub namespace: Option<String>,
    /// The name of the operator's pod, for Kubernetes Events.
    pub pod_name: Option<String>,
    /// Whether to create an Environment if there is none.
    pub default_environment: bool,
    /// The address of health and metrics.
    pub health_listen: SocketAddr,
    /// The read API; `None`: it is off.
    pub read_api: Option<ReadApiConfig>,
    /// Requests to destinations.
    pub outbound: OutboundConfig,
    /// The ClusterRole that advice names.
    pub secrets_role: String,
    /// The service account that advice names.
    pub service_account: String,
    /// Log lines.
    pub log: LogConfig,
    /// Times that only tests change.
    pub tuning: Tuning,
}

/// How the read API is served.
#[derive(Clone, Debug)]
pub struct ReadApiConfig {
    /// Its URL, without a slash at the end.
    pub external_url: String,
    /// Its address.
    pub listen: SocketAddr,
    /// Whether a proxy has authenticated every request.
    pub behind_authenticating_proxy: bool,
}

/// How requests to destinations are made.
#[derive(Clone, Debug)]
pub struct OutboundConfig {
    /// What is opened although it is closed by default.
    pub allow_destination: Vec<String>,
    /// A file with further certificates.
    pub extra_ca_file: Option<PathBuf>,
    /// The proxy for https destinations.
    pub https_proxy: Option<SecretString>,
    /// The proxy for http destinations.
    pub http_proxy: Option<SecretString>,
    /// Hosts that are reached without a proxy.
    pub no_proxy: String,
    /// The address of the operator's own pod.
    pub pod_ip: Option<IpAddr>,
}

/// Which log lines are written, and how.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// A level, or a filter.
    pub filter: String,
    /// How they are written.
    pub format: LogFormat,
}

impl From<RunFlags> for Configuration {
    fn from(flags: RunFlags) -> Self {
        let secret =
            |url: Option<String>| url.filter(|url| !url.is_empty()).map(SecretString::from);
        Self {
            org: flags.org.unwrap_or_else(|| flags.cluster_name.clone()),
            cluster_name: flags.cluster_name,
            namespace: flags.namespace,
            pod_name: std::env::var("HOSTNAME").ok(), // Kubernetes sets it to the name of the pod
            default_environment: flags.default_environment,
            health_listen: flags.listen,
            read_api: flags.external_url.map(|external_url| ReadApiConfig {
                external_url,
                listen: flags.api_listen,
                behind_authenticating_proxy: flags.api_behind_authenticating_proxy,
            }),
            outbound: OutboundConfig {
                allow_destination: flags.allow_destination,
                extra_ca_file: flags.extra_ca_file,
                https_proxy: secret(flags.https_proxy),
                http_proxy: secret(flags.http_proxy),
                no_proxy: flags.no_proxy,
                pod_ip: flags.pod_ip,
            },
            secrets_role: flags.secrets_role,
            service_account: flags.service_account,
            log: LogConfig {
                filter: flags.log,
                format: flags.log_format,
            },
            tuning: flags.tuning,
        }
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
    Err("use at most 63 lower-case letters, digits and dashes, as in aws-prod".to_owned())
}

fn org(text: &str) -> Result<String, String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~');
    if !text.is_empty() && text.len() <= 63 && text.chars().all(valid) {
        return Ok(text.to_owned());
    }
    Err("use at most 63 letters, digits, dashes, dots, tildes and underscores: it is a part of URLs".to_owned())
}

fn allowed_destination(text: &str) -> Result<String, String> {
    let checked = Guard::new(&[text.to_owned()], vec![]);
    checked.map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map_err(|error| {
        format!("{error}; use a level such as info, or a filter such as shipbell=debug,info")
    })?;
    Ok(text.to_owned())
}

fn external_url(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text)
        .map_err(|error| format!("{error}; use a URL such as https://shipbell.example.com"))?;
    if !matches!(url.scheme(), "http" | "https")
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err("use an http or https URL without query and fragment".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Result<Configuration, String> {
        let all = ["shipbell", "run"].iter().chain(arguments);
        match Flags::try_parse_from(all) {
            Ok(Flags {
                command: Command::Run(run),
            }) => Ok(Configuration::from(*run)),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_cluster_name_is_all_that_has_to_be_given() {
        let config = run(&["--cluster-name", "aws-prod"]).unwrap();
        assert!(config.default_environment);
        assert_eq!(config.org, "aws-prod");
        assert!(config.read_api.is_none());
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
            (
                vec!["--cluster-name", "a", "--log", "shipbell=loud"],
                "use a level such as info",
            ),
            (
                vec!["--cluster-name", "a", "--allow-destination", "10.0.0.0/99"],
                "give an address range (10.0.0.0/8)",
            ),
            (vec!["--cluster-name", "a", "--log-format", "xml"], "json"),
            (vec![], "--cluster-name"),
        ] {
            let error = run(&arguments).unwrap_err();
            assert!(error.contains(cure), "{error}");
        }
    }
}
