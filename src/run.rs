#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "starts tasks, listens, and hands the client to what needs it"
)]

//! The composition root: creates everything, and hands it to what needs it. One function for each subsystem.

mod connect;
mod default_environment;
mod outbound;
mod telemetry;
pub mod test_delivery;

use std::{sync::Arc, time::Duration};

use anyhow::bail;
use kube::Client;
use parking_lot::Mutex;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch as channel,
    task::{JoinHandle, JoinSet},
    time::{interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    api::{AllowedArtifact, ArtifactApproval, ArtifactProvenance},
    cluster::{
        custom_resource_watch::Follow,
        kubernetes_events::EventPublisher,
        pod_view::{DeploymentView, NamespaceView, PodView},
        watch::{self, WatchTimings},
    },
    compliance::{
        evidence_resource::EvidenceResource,
        evidence_status::{EvidenceStatusWriter, EvidenceStatuses},
        evidence_watch,
    },
    config::{Configuration, ReadApiConfig, Tuning},
    delivery::{
        context::Context as DeliveryContext, dispatcher, request_slots::RequestSlots,
        secret::RbacHints,
    },
    http::sender::HttpSender,
    leader::election::{Election, ElectionWatch, Instance},
    message::installation::Installation,
    metrics::Metrics,
    panics,
    snapshot::{
        delivery_progress::DeliveryProgress,
        environments::Environments,
        log::SnapshotLog,
        pruning::Pruner,
        recorder,
        recorder_context::RecorderContext,
        self_check,
        shared_state::SharedState,
        state::{ClusterState, FleetObject},
    },
    web::{
        access::{Access, TokenChecker},
        health::{self, Health},
        lookup::Lookup,
        read_api,
        server::{self, Port, Server},
    },
};

/// How often the state is checked for what changes with time alone.
const TICK: Duration = Duration::from_secs(10);
/// How long requests that are under way may take when the program stops: longer than an attempt may take, and shorter than
/// Kubernetes waits (30 s), with what is done afterwards.
const GRACE: Duration = Duration::from_secs(20);
/// The Lease that says which replica leads. It is in the operator's namespace.
const LEASE: &str = "shipbell";

/// What several subsystems use.
struct Shared {
    client: Client,
    namespace: String,
    state: Arc<SharedState>,
    environments: Arc<Environments>,
    log: SnapshotLog,
    metrics: Arc<Metrics>,
    installation: Arc<Installation>,
    progress: Arc<DeliveryProgress>,
    events: EventPublisher,
    leadership: ElectionWatch,
    watch_timings: WatchTimings,
    /// Cancelled when the program stops.
    stop: CancellationToken,
}

/// The tasks that run until the program stops. If one of them ends, the program does.
type Tasks = JoinSet<()>;

/// Runs the operator until it gets a signal to stop.
pub async fn run(config: Configuration) -> anyhow::Result<()> {
    telemetry::start(&config.log)?;
    panics::log_all();
    // Before anything else: the first process of a container gets no signal for which it has no handler.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    for warning in config.warnings() {
        warn!("{warning}");
    }
    let cluster = connect::find().await?;
    let namespace = config
        .namespace
        .clone()
        .unwrap_or_else(|| cluster.default_namespace.clone());
    let sender = outbound::sender(&config.outbound, connect::address(&cluster))?;
    let (client, version) = connect::connect(cluster).await?;
    info!(
        cluster = config.cluster_name,
        namespace,
        kubernetes = version.git_version,
        version = env!("CARGO_PKG_VERSION"),
        "Shipbell starts"
    );
    let state = ClusterState::new(connect::counts_pod_generations(&version), &namespace);
    let instance = Instance::of_pod(config.pod_name.as_deref(), config.pod_uid.as_deref());
    let (election, leadership) = Election::new(client.clone(), &namespace, LEASE, instance);
    let shared = Shared::new(&config, client, namespace, state, leadership);
    let (cursors_ready, cursors) = channel::channel(false);

    let mut tasks = Tasks::new();
    serve_health(&config, &shared, &mut tasks).await?;
    start_watches(&shared, &config.tuning, &mut tasks);
    start_recorder(&shared, cursors, &mut tasks);
    start_evidence(&shared, &mut tasks);
    start_default_environment(&shared, &config);
    start_pruning(&shared, &config.tuning, &mut tasks);
    serve_read_api(&shared, &config.read_api, &mut tasks).await?;
    if let Some(file) = config.outbound.extra_ca_file.clone() {
        tasks.spawn(outbound::reload_extra_ca(sender.clone(), file));
    }
    tasks.spawn(count_leading(
        shared.leadership.clone(),
        shared.metrics.clone(),
    ));
    let mut delivery = start_delivery(&shared, &config, sender, cursors_ready);
    let resigns = CancellationToken::new();
    let mut election = tokio::spawn(election.run(resigns.clone()));

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        // They run until the program stops. Without one of them, changes would be missed without any sign of it.
        ended = tasks.join_next() => bail!("a part of the program ended: {ended:?}"),
        ended = &mut delivery => bail!("delivery ended: {ended:?}"),
        ended = &mut election => bail!("the election ended: {ended:?}"),
    }
    shut_down(&shared, delivery).await;
    // Not earlier: another replica begins to send at once.
    resigns.cancel();
    let _ = election.await;
    info!("Shipbell stops");
    Ok(())
}

impl Shared {
    fn new(
        config: &Configuration,
        client: Client,
        namespace: String,
        state: ClusterState,
        leadership: ElectionWatch,
    ) -> Self {
        Self {
            namespace,
            state: SharedState::new(state),
            environments: Arc::default(),
            log: SnapshotLog::new(client.clone()),
            metrics: Arc::new(Metrics::new()),
            installation: Arc::new(Installation {
                org: config.org().to_owned(),
                cluster: config.cluster_name.clone(),
                external_url: config.read_api.external_url.clone(),
            }),
            progress: Arc::default(),
            events: EventPublisher::new(
                client.clone(),
                config.pod_name.clone(),
                leadership.clone(),
            ),
            leadership,
            watch_timings: WatchTimings {
                relist: config.tuning.relist_interval.0,
                idle: config.tuning.watch_idle.0,
            },
            stop: CancellationToken::new(),
            client,
        }
    }
}

async fn serve_health(
    config: &Configuration,
    shared: &Shared,
    tasks: &mut Tasks,
) -> anyhow::Result<()> {
    let health = Health {
        leadership: shared.leadership.clone(),
        state: shared.state.clone(),
        environments: shared.environments.clone(),
        metrics: shared.metrics.clone(),
    };
    let listener = server::bind(config.listen, "--listen").await?;
    let server = Server::new(Port::Health, health::router(health), shared.metrics.clone());
    tasks.spawn(server.run(listener));
    Ok(())
}

/// Follows pods, deployments and namespaces.
fn start_watches(shared: &Shared, tuning: &Tuning, tasks: &mut Tasks) {
    start_watch::<PodView>(shared, tasks);
    start_watch::<DeploymentView>(shared, tasks);
    start_watch::<NamespaceView>(shared, tasks);
    let (client, state, metrics) = (&shared.client, &shared.state, &shared.metrics);
    let (c, s, m) = (|| client.clone(), || state.clone(), || metrics.clone());
    let every = tuning.check_interval.0;
    tasks.spawn(self_check::run(c(), s(), m(), every));
    tasks.spawn(tick(s()));
}

fn start_watch<T: FleetObject>(shared: &Shared, tasks: &mut Tasks) {
    let (client, state) = (shared.client.clone(), shared.state.clone());
    let (metrics, timings) = (shared.metrics.clone(), shared.watch_timings);
    tasks.spawn(async move { watch::follow::<T, _>(&client, &*state, &metrics, timings).await });
}

async fn count_leading(leadership: ElectionWatch, metrics: Arc<Metrics>) {
    loop {
        let leads = leadership.leads();
        metrics.leads(leads);
        leadership.changed(leads).await;
    }
}

async fn tick(state: Arc<SharedState>) {
    let mut every = interval(TICK);
    loop {
        every.tick().await;
        state.with(ClusterState::tick);
    }
}

/// Records snapshots. `cursors`: whether delivery has written the first cursors; the recorder waits for that, for a
/// limited time.
fn start_recorder(shared: &Shared, cursors: channel::Receiver<bool>, tasks: &mut Tasks) {
    let context = RecorderContext {
        client: shared.client.clone(),
        shared: shared.state.clone(),
        log: shared.log.clone(),
        environments: shared.environments.clone(),
        metrics: shared.metrics.clone(),
        namespace: shared.namespace.clone(),
        cursors_ready: cursors,
        write_budget: Arc::default(),
        events: shared.events.clone(),
        watch_timings: shared.watch_timings,
        leadership: shared.leadership.clone(),
        stop: shared.stop.clone(),
    };
    tasks.spawn(recorder::run(context));
}

/// Follows provenance records, reviews and the allow-list, and writes their status.
fn start_evidence(shared: &Shared, tasks: &mut Tasks) {
    let statuses = Arc::default();
    start_evidence_watch::<ArtifactProvenance>(shared, &statuses, tasks);
    start_evidence_watch::<ArtifactApproval>(shared, &statuses, tasks);
    start_evidence_watch::<AllowedArtifact>(shared, &statuses, tasks);
    let (client, state) = (shared.client.clone(), shared.state.clone());
    let write = move || {
        let writer = EvidenceStatusWriter {
            client: client.clone(),
            shared: state.clone(),
            statuses: statuses.clone(),
        };
        writer.run()
    };
    let leadership = shared.leadership.clone();
    tasks.spawn(async move { leadership.during_each_term(write).await });
}

fn start_evidence_watch<K: EvidenceResource>(
    shared: &Shared,
    statuses: &Arc<Mutex<EvidenceStatuses>>,
    tasks: &mut Tasks,
) {
    let (client, state) = (shared.client.clone(), shared.state.clone());
    let (metrics, timings) = (shared.metrics.clone(), shared.watch_timings);
    let events = shared.events.clone();
    let statuses = statuses.clone();
    tasks.spawn(async move {
        let follow = Follow {
            client: &client,
            streams: &*state,
            metrics: &metrics,
            events: &events,
            timings,
        };
        evidence_watch::follow::<K, _>(follow, state.clone(), statuses).await;
    });
}

fn start_default_environment(shared: &Shared, config: &Configuration) {
    if config.default_environment {
        let (client, environments) = (shared.client.clone(), shared.environments.clone());
        let (cluster, namespace) = (config.cluster_name.clone(), shared.namespace.clone());
        let leadership = shared.leadership.clone();
        let create = move || {
            let (client, environments) = (client.clone(), environments.clone());
            default_environment::create_once(
                client,
                environments,
                cluster.clone(),
                namespace.clone(),
            )
        };
        tokio::spawn(async move { leadership.during_each_term(create).await });
    }
}

fn start_pruning(shared: &Shared, tuning: &Tuning, tasks: &mut Tasks) {
    let pruner = Pruner {
        client: shared.client.clone(),
        log: shared.log.clone(),
        state: shared.state.clone(),
        progress: shared.progress.clone(),
        metrics: shared.metrics.clone(),
        interval: tuning.prune_interval.0,
    };
    let leadership = shared.leadership.clone();
    tasks.spawn(async move { leadership.during_each_term(|| pruner.clone().run()).await });
}

async fn serve_read_api(
    shared: &Shared,
    config: &ReadApiConfig,
    tasks: &mut Tasks,
) -> anyhow::Result<()> {
    if config.external_url.is_none() {
        return Ok(());
    }
    let lookup = Lookup {
        state: shared.state.clone(),
        log: shared.log.clone(),
        environments: shared.environments.clone(),
        installation: shared.installation.clone(),
        flows: Arc::default(),
    };
    let access = match config.api_behind_authenticating_proxy {
        true => Access::behind_proxy(config.api_proxy_secret.as_ref()),
        false => Access::ByToken(TokenChecker::new(
            shared.client.clone(),
            &config.api_token_audience,
            config.api_accept_cluster_tokens,
            shared.metrics.clone(),
        )),
    };
    let listener = server::bind(config.api_listen, "--api-listen").await?;
    let router = read_api::router(lookup, access);
    let server = Server::new(Port::Api, router, shared.metrics.clone());
    tasks.spawn(server.run(listener));
    Ok(())
}

/// Sends events to the destinations of the settings. `cursors_ready`: becomes true when the first cursors are written.
fn start_delivery(
    shared: &Shared,
    config: &Configuration,
    sender: HttpSender,
    cursors_ready: channel::Sender<bool>,
) -> JoinHandle<()> {
    let context = DeliveryContext {
        client: shared.client.clone(),
        clock: shared.state.clone(),
        watch_timings: shared.watch_timings,
        log: shared.log.clone(),
        environments: shared.environments.clone(),
        sender,
        installation: shared.installation.clone(),
        metrics: shared.metrics.clone(),
        events: shared.events.clone(),
        rbac_hints: RbacHints {
            secrets_role: config.secrets_role.clone(),
            service_account: (config.service_account.clone(), shared.namespace.clone()),
        },
        progress: shared.progress.clone(),
        leadership: shared.leadership.clone(),
        stop: shared.stop.clone(),
        requests: RequestSlots::default(),
    };
    tokio::spawn(dispatcher::run(context, cursors_ready))
}

async fn shut_down(shared: &Shared, delivery: JoinHandle<()>) {
    info!("stopping: no new requests are sent; those under way are finished");
    shared.stop.cancel();
    if timeout(GRACE, delivery).await.is_err() {
        warn!("some requests were not finished; they are sent again after the next start");
    }
}
