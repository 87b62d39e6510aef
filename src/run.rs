#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! The composition root: everything is made here and handed to what needs it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    api::{ListParams, ObjectMeta, PostParams},
};
use secrecy::SecretString;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch as channel,
    task::JoinSet,
    time::{interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::{
    api::{
        AllowedArtifact, ArtifactApproval, ArtifactProvenance, Environment, EnvironmentSpec,
        environment::Namespaces,
    },
    backoff::Backoff,
    cluster::{
        events::EventPublisher,
        pod_view::{DeploymentView, NamespaceView, PodView},
        watch::{self, WatchTimings},
    },
    compliance::{evidence_status::EvidenceStatusWriter, evidence_watch},
    config,
    delivery::{dispatcher::Dispatcher, secret::RbacHints},
    http::{
        guard::Guard,
        sender::{self, HttpSender, ProxyConfig},
    },
    message::installation::Installation,
    metrics::Metrics,
    snapshot::{
        environments::Environments, log::SnapshotLog, progress::DeliveryProgress, pruning::Pruner,
        recorder, recorder_context::RecorderContext, self_check, shared::SharedState,
        state::ClusterState,
    },
    web::{
        health::{self, Health},
        read_api::{self, ReadApi},
    },
};

/// The log is pruned this often.
const PRUNE: Duration = Duration::from_secs(600);
/// An API server that doesn't answer at start is reported after so long.
const ANSWER: Duration = Duration::from_secs(10);
/// A connection that takes longer is tried again.
const CONNECT: Duration = Duration::from_secs(15);
/// A connection on which nothing was heard for so long is dead: even the quietest watch has a bookmark each minute.
const SILENCE: Duration = Duration::from_secs(150);
/// So long requests that are under way may take when the program is to stop.
const GRACE: Duration = Duration::from_secs(10);
/// Pauses between attempts to create the default Environment double from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// Remembers that the default Environment was created once, so that a deleted one stays deleted.
const MARKER: &str = "shipbell-default-environment";

/// Runs the operator until it is told to stop.
pub async fn run(flags: config::Run) -> anyhow::Result<()> {
    telemetry(&flags)?;
    // First of all: to the first process of a container a signal that it doesn't ask for is no signal.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut config = Config::infer()
        .await
        .context("can't find a cluster: neither a service account nor a kubeconfig")?;
    config.proxy_url = None; // proxies are for destinations
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    let namespace = flags
        .namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    let server = config.cluster_url.to_string();
    let courier = courier(&flags, &config)?;
    let client = Client::try_from(config).context("can't make a client for the cluster")?;
    let version = timeout(ANSWER, client.apiserver_version())
        .await
        .with_context(|| format!("the API server at {server} doesn't answer"))?;
    let version = version.with_context(|| format!("can't reach the API server at {server}"))?;
    let minor: u32 = version
        .minor
        .chars()
        .take_while(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .unwrap_or(0);
    info!(
        cluster = flags.cluster_name,
        namespace,
        kubernetes = version.git_version,
        version = env!("CARGO_PKG_VERSION"),
        "Shipbell starts"
    );
    check_installed(&client).await?;

    let metrics = Arc::new(Metrics::new());
    // From 1.35 on the server counts the generation of pods, so 1 means never edited.
    let hub = SharedState::new(ClusterState::new(minor >= 35, &namespace));
    let environments = Arc::new(Environments::default());
    let logbook = SnapshotLog::new(client.clone());
    let (cursors_ready, cursors) = channel::channel(false);

    let health = Health {
        hub: hub.clone(),
        environments: environments.clone(),
        metrics: metrics.clone(),
    };
    let listener = health::bind(flags.listen, "--listen").await?;

    let stop = CancellationToken::new();
    let patience = WatchTimings {
        relist: flags.tuning.relist_interval.0,
        idle: flags.tuning.watch_idle.0,
    };
    let mut tasks = JoinSet::new();
    let (c, h, m) = (&client, &hub, &metrics);
    let (c, h, m) = (|| c.clone(), || h.clone(), || m.clone());
    tasks.spawn(watch::follow::<PodView, _>(c(), h(), m(), patience));
    tasks.spawn(watch::follow::<DeploymentView, _>(c(), h(), m(), patience));
    tasks.spawn(watch::follow::<NamespaceView, _>(c(), h(), m(), patience));
    tasks.spawn(self_check::run(
        c(),
        h(),
        m(),
        flags.tuning.check_interval.0,
    ));
    tasks.spawn(tick(hub.clone()));
    let events = EventPublisher::new(client.clone(), flags.pod_name());
    let recorder = RecorderContext {
        client: client.clone(),
        shared: hub.clone(),
        log: logbook.clone(),
        environments: environments.clone(),
        metrics: metrics.clone(),
        namespace: namespace.clone(),
        cursors_ready: cursors,
        write_budget: Arc::default(),
        events: events.clone(),
        stop: stop.clone(),
    };
    tasks.spawn(recorder::run(recorder));
    let statuses = Arc::default();
    let s = || Arc::clone(&statuses);
    tasks.spawn(evidence_watch::follow::<ArtifactProvenance, _>(
        c(),
        h(),
        s(),
    ));
    tasks.spawn(evidence_watch::follow::<ArtifactApproval, _>(c(), h(), s()));
    tasks.spawn(evidence_watch::follow::<AllowedArtifact, _>(c(), h(), s()));
    let answerer = EvidenceStatusWriter {
        client: client.clone(),
        shared: hub.clone(),
        statuses: s(),
    };
    tasks.spawn(answerer.run());
    if flags.default_environment {
        tokio::spawn(default_environment(
            client.clone(),
            environments.clone(),
            flags.cluster_name.clone(),
            namespace.clone(),
        ));
    }
    let passed = Arc::new(DeliveryProgress::default());
    let pruner = Pruner {
        client: client.clone(),
        log: logbook.clone(),
        progress: passed.clone(),
        metrics: metrics.clone(),
        interval: PRUNE,
    };
    tasks.spawn(pruner.run());
    let installation = Arc::new(Installation {
        org: flags
            .org
            .clone()
            .unwrap_or_else(|| flags.cluster_name.clone()),
        cluster: flags.cluster_name.clone(),
        external_url: flags.external_url.clone(),
    });
    if flags.external_url.is_some() {
        let archive = ReadApi {
            client: client.clone(),
            hub: hub.clone(),
            logbook: logbook.clone(),
            environments: environments.clone(),
            installation: installation.clone(),
            open: flags.api_behind_authenticating_proxy,
            tokens: Arc::default(),
        };
        let listener = health::bind(flags.api_listen, "--api-listen").await?;
        tokio::spawn(axum::serve(listener, read_api::router(archive)).into_future());
    }
    let dispatcher = Dispatcher {
        client: client.clone(),
        hub: hub.clone(),
        logbook: logbook.clone(),
        environments: environments.clone(),
        courier,
        installation: installation.clone(),
        metrics: metrics.clone(),
        events,
        names: RbacHints {
            secrets_role: flags.secrets_role.clone(),
            service_account: (flags.service_account.clone(), namespace.clone()),
        },
        passed: passed.clone(),
        stop: stop.clone(),
    };
    let mut sending = tokio::spawn(dispatcher.run(cursors_ready));

    let app = health::health(health);
    let mut server = tokio::spawn(axum::serve(listener, app).into_future());
    tokio::select! {
        result = &mut server => result?.context("the health port failed")?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        // They run for ever: to go on without one of them would be to keep silent.
        ended = tasks.join_next() => bail!("a part of the program ended: {ended:?}"),
        ended = &mut sending => bail!("sending ended: {ended:?}"),
    }
    info!("nothing more is sent; what is under way is finished");
    stop.cancel();
    if timeout(GRACE, sending).await.is_err() {
        warn!("some requests were still under way; they are made again at the next start");
    }
    info!("Shipbell stops");
    Ok(())
}

/// The outbound client, as the flags and the cluster want it.
fn courier(flags: &config::Run, config: &Config) -> anyhow::Result<HttpSender> {
    // The API server is never a destination, by whatever name; nor are we.
    let server = config
        .cluster_url
        .host()
        .and_then(|host| host.trim_matches(['[', ']']).parse().ok());
    let service = std::env::var("KUBERNETES_SERVICE_HOST")
        .ok()
        .and_then(|host| host.parse().ok());
    let closed: Vec<IpAddr> = [server, service, flags.pod_ip]
        .into_iter()
        .flatten()
        .filter(|ip: &IpAddr| !ip.is_loopback())
        .collect();
    let guard = Guard::new(&flags.allow_destination, closed).context("--allow-destination")?;
    let mut settings = sender::SenderConfig::new(guard);
    if let Some(file) = &flags.extra_ca_file {
        let pem =
            std::fs::read(file).with_context(|| format!("--extra-ca-file {}", file.display()))?;
        settings.extra_ca_pem = Some(pem);
    }
    let secret = |url: &Option<String>| {
        url.clone()
            .filter(|url| !url.is_empty())
            .map(SecretString::from)
    };
    let (https, http) = (secret(&flags.https_proxy), secret(&flags.http_proxy));
    if https.is_some() || http.is_some() {
        settings.proxy = Some(ProxyConfig {
            https,
            http,
            no_proxy: flags.no_proxy.clone(),
        });
    }
    HttpSender::new(&settings).context("can't make the outbound client")
}

fn telemetry(flags: &config::Run) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(&flags.log).with_context(|| format!("--log {:?}", flags.log))?;
    // The client writes whole bodies at this place, which may hold a Secret.
    let filter = filter.add_directive("kube_client::client=off".parse()?);
    // It calls a certificate that is not trusted an error of the program; the setting's status tells of it.
    let filter = filter.add_directive("rustls_platform_verifier=off".parse()?);
    let layer = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if flags.log_format == "json" {
        layer.json().init();
    } else {
        layer.with_ansi(false).init();
    }
    Ok(())
}

async fn tick(hub: Arc<SharedState>) {
    let mut every = interval(Duration::from_secs(10));
    loop {
        every.tick().await;
        hub.with(ClusterState::tick);
    }
}

/// Without its kinds the operator could do nothing but fail, again and again, in places that don't say why.
async fn check_installed(client: &Client) -> anyhow::Result<()> {
    let api: Api<Environment> = Api::all(client.clone());
    let one = ListParams::default().limit(1);
    let listed = timeout(ANSWER, api.list_metadata(&one));
    match listed.await.context("the API server doesn't answer")? {
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

/// Creates the default Environment if there is none, once in the life of an installation.
async fn default_environment(
    client: Client,
    environments: Arc<Environments>,
    cluster: String,
    namespace: String,
) {
    environments.wait_listed().await;
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    while environments.all().is_empty() {
        let created = create_default_environment(&client, &cluster, &namespace);
        match timeout(ANSWER, created).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                error!(%error, "can't create the default Environment; trying again (create one, or start with --default-environment=false)");
            }
            Err(_) => warn!("no answer when creating the default Environment; trying again"),
        }
        sleep(backoff.take(0)).await;
    }
}

async fn create_default_environment(
    client: &Client,
    cluster: &str,
    namespace: &str,
) -> kube::Result<()> {
    let markers: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    if markers.get_opt(MARKER).await?.is_some() {
        info!(
            "there is no Environment, and the default one was created once before; not creating it again"
        );
        return Ok(());
    }
    let api: Api<Environment> = Api::all(client.clone());
    let exclude = Some(vec!["kube-*".to_owned(), namespace.to_owned()]);
    let spec = EnvironmentSpec {
        namespaces: Some(Namespaces {
            include: None,
            exclude,
        }),
        ..EnvironmentSpec::default()
    };
    match api
        .create(&PostParams::default(), &Environment::new(cluster, spec))
        .await
    {
        Ok(_) => info!(environment = cluster, "created the default Environment"),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => return Err(error),
    }
    let data = [("environment".to_owned(), cluster.to_owned())].into();
    let metadata = ObjectMeta {
        name: Some(MARKER.to_owned()),
        ..ObjectMeta::default()
    };
    let marker = ConfigMap {
        metadata,
        data: Some(data),
        ..ConfigMap::default()
    };
    match markers.create(&PostParams::default(), &marker).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => {
            warn!(%error, "can't remember that the default Environment was created");
            Ok(())
        }
    }
}
