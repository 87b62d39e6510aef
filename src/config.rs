//! The command line and the environment: the checked configuration of the operator.

use std::{
    ffi::OsStr,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{
    Arg, ArgAction, Args, Parser, Subcommand, ValueEnum, builder::TypedValueParser,
    error::ErrorKind,
};
use secrecy::SecretString;
use tracing_subscriber::EnvFilter;

use crate::{api::Span, http::address_guard::Guard};

/// Shipbell notifies people when what runs in your cluster changes.
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
    Run(Box<Configuration>),
    /// Ask the operator for a test message, and wait for it: what `helm test` does
    TestDelivery(TestDelivery),
}

/// How a test message is asked for and received. Each flag is also an environment variable.
#[derive(Clone, Debug, Args)]
pub struct TestDelivery {
    /// The namespace of the NotificationSetting that is created for the test
    #[arg(long, env = "SHIPBELL_NAMESPACE")]
    pub namespace: String,

    /// The name of the NotificationSetting that is created for the test, and deleted after it
    #[arg(long, env = "SHIPBELL_TEST_SETTING", default_value = "shipbell-test")]
    pub setting: String,

    /// The URL by which the operator reaches this program
    #[arg(long, env = "SHIPBELL_TEST_URL")]
    pub url: String,

    /// The address of the receiver; [::] means all, of IPv4 and IPv6
    #[arg(long, env = "SHIPBELL_TEST_LISTEN", default_value = "[::]:8080")]
    pub listen: SocketAddr,

    /// How long to wait for the message
    #[arg(long, env = "SHIPBELL_TEST_TIMEOUT", default_value = "90s")]
    pub timeout: Span,
}

/// How the operator runs. Each flag is also an environment variable.
#[derive(Clone, Debug, Args)]
pub struct Configuration {
    /// The cluster's name: shown in messages, and the name of the default Environment
    #[arg(long, env = "SHIPBELL_CLUSTER_NAME", value_parser = cluster_name)]
    pub cluster_name: String,

    /// The organisation in payloads and links [default: the cluster's name]
    #[arg(long, env = "SHIPBELL_ORG", value_parser = org)]
    org: Option<String>,

    /// The namespace that the operator runs in [default: that of its service account, or of the kubeconfig]
    #[arg(long, env = "SHIPBELL_NAMESPACE")]
    pub namespace: Option<String>,

    /// Create an Environment with all namespaces if there is none at the first start
    #[arg(long, env = "SHIPBELL_DEFAULT_ENVIRONMENT", default_value_t = true, action = ArgAction::Set)]
    pub default_environment: bool,

    /// The address of /livez, /readyz and /metrics; [::] means all, of IPv4 and IPv6
    #[arg(long, env = "SHIPBELL_LISTEN", default_value = "[::]:8080")]
    pub listen: SocketAddr,

    /// How the read API is served.
    #[command(flatten)]
    pub read_api: ReadApiConfig,

    /// How requests to destinations are made.
    #[command(flatten)]
    pub outbound: OutboundConfig,

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

    /// Which log lines are written, and how.
    #[command(flatten)]
    pub log: LogConfig,

    /// The name of the operator's pod, for Kubernetes Events. Kubernetes sets the variable.
    #[arg(long, env = "HOSTNAME", hide = true)]
    pub pod_name: Option<String>,

    /// The UID of the operator's pod, so that a container that is started again in it goes on at once. The chart sets it.
    #[arg(long, env = "SHIPBELL_POD_UID", hide = true)]
    pub pod_uid: Option<String>,

    /// Times that only tests change.
    #[command(flatten)]
    pub tuning: Tuning,
}

impl Configuration {
    /// The organisation in payloads and links.
    pub fn org(&self) -> &str {
        self.org.as_ref().unwrap_or(&self.cluster_name)
    }

    /// What is accepted and should not be left so, for the log.
    pub fn warnings(&self) -> Vec<String> {
        [self.read_api.warnings(), self.outbound.warnings()].concat()
    }
}

/// How the read API is served.
#[derive(Clone, Debug, Args)]
pub struct ReadApiConfig {
    /// The address of the read API, if there is an external URL; [::] means all, of IPv4 and IPv6
    #[arg(long, env = "SHIPBELL_API_LISTEN", default_value = "[::]:8081")]
    pub api_listen: SocketAddr,

    /// The URL of the read API for people and tools; without it the API is off, and messages contain no links
    #[arg(long, env = "SHIPBELL_EXTERNAL_URL", value_parser = external_url)]
    pub external_url: Option<String>,

    /// Serve the read API to everybody who reaches it; only for use behind a proxy that authenticates
    #[arg(long, env = "SHIPBELL_API_BEHIND_AUTHENTICATING_PROXY", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub api_behind_authenticating_proxy: bool,

    /// A secret that the proxy sends with each request in the header X-Shipbell-Proxy-Secret; requests without it are refused
    #[arg(long, env = "SHIPBELL_API_PROXY_SECRET", hide_env_values = true, value_parser = ProxySecretParser, allow_hyphen_values = true)]
    pub api_proxy_secret: Option<SecretString>,

    /// The audience that tokens for the read API are issued for: kubectl create token NAME --audience=shipbell
    #[arg(long, env = "SHIPBELL_API_TOKEN_AUDIENCE", default_value = "shipbell", value_parser = audience)]
    pub api_token_audience: String,

    /// Also accept tokens that are issued for the Kubernetes API server: whoever reads one on its way can use it there
    #[arg(long, env = "SHIPBELL_API_ACCEPT_CLUSTER_TOKENS", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub api_accept_cluster_tokens: bool,
}

impl ReadApiConfig {
    fn warnings(&self) -> Vec<String> {
        let Some(url) = &self.external_url else {
            return vec![];
        };
        let mut warnings = vec![];
        if is_readable_on_the_way(url) {
            warnings.push(
                "the external URL is http: whoever is on the way can read and use the readers' tokens; use https".to_owned(),
            );
        }
        if self.api_behind_authenticating_proxy && self.api_proxy_secret.is_none() {
            warnings.push(
                "--api-behind-authenticating-proxy without --api-proxy-secret: whoever can connect to the read API, past the proxy too, reads everything; set the secret (chart value api.proxySecret), or let only the proxy connect (networkPolicy.apiFrom)".to_owned(),
            );
        }
        warnings
    }
}

/// Whether requests to a URL can be read by others than this machine.
fn is_readable_on_the_way(url: &str) -> bool {
    let Ok(url) = url::Url::parse(url) else {
        return false;
    };
    let local = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    url.scheme() == "http" && !local
}

/// How requests to destinations are made.
#[derive(Clone, Debug, Args)]
pub struct OutboundConfig {
    /// Destinations to open that are closed by default: address ranges (10.0.0.0/8), addresses or host names, each with the
    /// namespaces whose settings may send there (10.0.0.0/8@team-a+team-b) or else for all, separated by commas
    #[arg(long, env = "SHIPBELL_ALLOW_DESTINATION", value_delimiter = ',', value_parser = allowed_destination)]
    pub allow_destination: Vec<String>,

    /// A file with further certificates (PEM) that are trusted for destinations, read again when it changes
    #[arg(long, env = "SHIPBELL_EXTRA_CA_FILE")]
    pub extra_ca_file: Option<PathBuf>,

    /// The proxy for https destinations
    #[arg(long, env = "HTTPS_PROXY", hide_env_values = true)]
    pub https_proxy: Option<SecretString>,

    /// The proxy for http destinations
    #[arg(long, env = "HTTP_PROXY", hide_env_values = true)]
    pub http_proxy: Option<SecretString>,

    /// Hosts that are reached without a proxy, separated by commas
    #[arg(long, env = "NO_PROXY", default_value = "")]
    pub no_proxy: String,

    /// The addresses of the operator's own pod, which are never a destination, separated by commas
    #[arg(long, env = "SHIPBELL_POD_IP", value_delimiter = ',')]
    pub pod_ip: Vec<IpAddr>,
}

impl OutboundConfig {
    fn warnings(&self) -> Vec<String> {
        let entries = self.allow_destination.iter();
        let for_all = entries.filter(|entry| !entry.contains('@'));
        for_all
            .map(|entry| {
                format!(
                    "--allow-destination {entry} opens this for the settings of every namespace; name the namespaces: {entry}@team-a+team-b (chart value outbound.allow)"
                )
            })
            .collect()
    }
}

/// Which log lines are written, and how.
#[derive(Clone, Debug, Args)]
pub struct LogConfig {
    /// Which log lines are written: a level such as `info`, or a filter such as `shipbell=debug,warn`
    #[arg(long, env = "SHIPBELL_LOG", default_value = "info", value_parser = log_filter)]
    pub log: String,

    /// How log lines are written
    #[arg(long, env = "SHIPBELL_LOG_FORMAT", default_value = "text", value_enum)]
    pub log_format: LogFormat,
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

    /// How often old snapshots are removed
    #[arg(long, default_value = "10m", hide = true)]
    pub prune_interval: Span,

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

/// Reads the secret of a proxy. It is no function, because clap's error shows what a function refuses.
#[derive(Clone)]
struct ProxySecretParser;

impl TypedValueParser for ProxySecretParser {
    type Value = SecretString;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _: Option<&Arg>,
        value: &OsStr,
    ) -> Result<SecretString, clap::Error> {
        let text = value.to_str().unwrap_or_default().trim();
        if text.len() >= 16 && text.chars().all(|c| c.is_ascii_graphic()) {
            return Ok(text.into());
        }
        let why = "--api-proxy-secret: use at least 16 printable characters without white space, as in openssl rand -hex 32";
        Err(clap::Error::raw(ErrorKind::ValueValidation, why).with_cmd(command))
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map_err(|error| {
        format!("{error}; use a level such as info, or a filter such as shipbell=debug,info")
    })?;
    Ok(text.to_owned())
}

fn audience(text: &str) -> Result<String, String> {
    if text.is_empty()
        || text.len() > 253
        || text.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        return Err("use a name without spaces, such as shipbell or the external URL".to_owned());
    }
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
            }) => Ok(*run),
            Ok(_) => unreachable!(),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_cluster_name_is_all_that_has_to_be_given() {
        let config = run(&["--cluster-name", "aws-prod"]).unwrap();
        assert!(config.default_environment);
        assert_eq!(config.org(), "aws-prod");
        assert!(config.read_api.external_url.is_none());
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
            (
                vec!["--cluster-name", "a", "--api-token-audience", "a b"],
                "without spaces",
            ),
            (
                vec![
                    "--cluster-name",
                    "a",
                    "--api-proxy-secret",
                    "0123456789abcde",
                ],
                "at least 16 printable characters",
            ),
            (
                vec![
                    "--cluster-name",
                    "a",
                    "--api-proxy-secret",
                    "0123456789 abcdef",
                ],
                "without white space",
            ),
            (vec![], "--cluster-name"),
        ] {
            let error = run(&arguments).unwrap_err();
            assert!(error.contains(cure), "{error}");
            assert!(!error.contains("0123456789"), "a secret: {error}");
        }
    }

    #[test]
    fn what_should_not_be_left_so_is_warned_of() {
        for (url, proxy, warnings) in [
            (None, true, 0),
            (Some("https://shipbell.example.com"), false, 0),
            (Some("http://127.0.0.1:8081"), false, 0),
            (Some("http://[::1]:8081"), false, 0),
            (Some("http://localhost"), false, 0),
            (Some("http://shipbell.example.com"), false, 1),
            (Some("http://10.0.0.1"), true, 2),
            (Some("https://shipbell.example.com"), true, 1),
        ] {
            let url = url.map(|url| format!("--external-url={url}"));
            let proxy_flag = format!("--api-behind-authenticating-proxy={proxy}");
            let all = ["--cluster-name=a", proxy_flag.as_str()];
            let mut all: Vec<&str> = all.into_iter().chain(url.as_deref()).collect();
            let config = run(&all).unwrap();
            assert_eq!(config.warnings().len(), warnings, "{all:?}");
            // The proxy's secret keeps everybody else out.
            all.push("--api-proxy-secret=0123456789abcdef");
            let config = run(&all).unwrap();
            let without = warnings - usize::from(url.is_some() && proxy);
            assert_eq!(config.warnings().len(), without, "{all:?}");
        }
        for (allowed, for_all) in [
            ("10.0.0.0/8@team-a+team-b,*.example.com@team-a", vec![]),
            ("10.0.0.0/8", vec!["10.0.0.0/8"]),
            (
                "hooks.example.com,10.0.0.1@team-a,10.0.0.2",
                vec!["hooks.example.com", "10.0.0.2"],
            ),
        ] {
            let config = run(&["--cluster-name=a", "--allow-destination", allowed]).unwrap();
            let want = for_all.iter().map(|entry| {
                format!(
                    "--allow-destination {entry} opens this for the settings of every namespace; name the namespaces: {entry}@team-a+team-b (chart value outbound.allow)"
                )
            });
            assert_eq!(config.warnings(), want.collect::<Vec<_>>());
        }
    }
}
