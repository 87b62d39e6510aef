#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Lists and watches pods, deployments and namespaces. Our own loop, because the log must know the resource versions of
//! lists and bookmarks, and because one object that can't be read must not stop the others. Nothing slow happens here: the
//! API server closes the watch of a slow reader without a word.

use std::{fmt::Display, io, sync::Arc, time::Duration};

use futures::{AsyncBufRead, AsyncBufReadExt as _, pin_mut};
use http::{HeaderValue, header::ACCEPT_ENCODING};
use kube::{
    Client,
    api::{ListParams, VersionMatch, WatchEvent, WatchParams},
    core::Request,
};
use tokio::time::{Instant, error::Elapsed, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::{
    backoff,
    cluster::{
        decode::{CountPage, List, event},
        pod_view::{Decoded, DeploymentView, NamespaceView, PodView, SlimView, version},
        watch_progress::WatchKind,
        watch_state::{Ended, FollowState, WatchAction},
    },
    http::error::causes,
    metrics::Metrics,
    time::Moment,
};

/// How many objects a page has. A page is held in memory as text, more than once, while it is read: the peak of a small
/// cluster.
const PAGE: u32 = 200;
/// How long to wait for an answer.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the server keeps a watch open (kube's own choice).
const WATCH_SECONDS: u32 = 290;
/// How much room for a line of a watch is kept from line to line; few are longer.
const LINE: usize = 64 << 10;

/// How long a watch must last to show that it works, unless it brought an event.
const PROVEN: Duration = Duration::from_secs(10);

/// How patiently a kind is followed.
#[derive(Clone, Copy, Debug)]
pub struct WatchTimings {
    /// How long until a new list finds what a watch lost; up to a fifth more.
    pub relist: Duration,
    /// How long a watch may bring nothing before it counts as dead: bookmarks come about every minute.
    pub idle: Duration,
}

/// A kind that is watched, and where the API server has it.
pub trait WatchedKind: SlimView {
    /// Which kind.
    const KIND: WatchKind;
    /// The path of all its objects.
    const PATH: &'static str;
}

impl WatchedKind for PodView {
    const KIND: WatchKind = WatchKind::Pods;
    const PATH: &'static str = "/api/v1/pods";
}

impl WatchedKind for DeploymentView {
    const KIND: WatchKind = WatchKind::Deployments;
    const PATH: &'static str = "/apis/apps/v1/deployments";
}

impl WatchedKind for NamespaceView {
    const KIND: WatchKind = WatchKind::Namespaces;
    const PATH: &'static str = "/api/v1/namespaces";
}

/// Keeps how far each kind has been read. Each call is one change.
pub trait StreamSink: Send + Sync {
    /// The time of its clock.
    fn now(&self) -> Moment;
    /// The resource version up to which a kind has been read.
    fn version(&self, kind: WatchKind) -> u64;
    /// Whether what is known of a kind can be relied on.
    fn is_good(&self, kind: WatchKind) -> bool;
    /// Whether a new list of a kind is requested.
    fn wants_relist(&self, kind: WatchKind) -> bool;
    /// Resolves after a new list of a kind was requested. It may have been read meanwhile.
    fn relist_requested(&self, kind: WatchKind) -> impl Future<Output = ()> + Send;
    /// A list begins.
    fn list_begins(&self, kind: WatchKind);
    /// The list that began at `begun` is complete. True if the server is not as far as it was before: its store was set
    /// back to an older state.
    fn list_ends(&self, kind: WatchKind, version: u64, begun: Moment) -> bool;
    /// A bookmark: nothing happened up to this version.
    fn bookmark(&self, kind: WatchKind, version: u64);
    /// A list or a watch failed, or is forbidden.
    fn stream_fails(&self, kind: WatchKind, why: String, forbidden: bool);
}

/// Takes in the objects of a kind. Each call is one change.
pub trait ObjectSink<T>: StreamSink {
    /// Objects were listed, or one was added or changed. What to warn of.
    fn seen(&self, objects: impl IntoIterator<Item = Decoded<T>>, listed: bool) -> Vec<String>;
    /// An object was deleted.
    fn deleted(&self, object: &Decoded<T>);
}

/// Why a list or a watch ended early.
pub(crate) enum Interruption {
    /// A new list is needed.
    Relist(&'static str),
    /// It failed.
    Failed {
        message: String,
        /// We may not read this kind at all.
        forbidden: bool,
        /// Some of a list was taken in: to resume from before it would undo that.
        halfway: bool,
    },
}

impl Interruption {
    fn failed(error: impl Display) -> Self {
        Self::Failed {
            message: error.to_string(),
            forbidden: false,
            halfway: false,
        }
    }

    fn unreadable(error: &serde_json::Error) -> Self {
        Self::failed(format!("the answer can't be read: {error}"))
    }

    /// The server doesn't let us watch, or no longer.
    fn refused(error: kube::Error) -> Self {
        if has_code(&error, 410) {
            return Self::Relist("the server has forgotten where we were");
        }
        error.into()
    }
}

impl From<kube::Error> for Interruption {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 403 => Self::Failed {
                message: format!(
                    "{}; give the operator its ClusterRole again (helm upgrade)",
                    status.message
                ),
                forbidden: true,
                halfway: false,
            },
            kube::Error::Api(status) => Self::failed(status.message),
            error => Self::failed(error),
        }
    }
}

impl From<Elapsed> for Interruption {
    fn from(_: Elapsed) -> Self {
        Self::failed(format!("no answer in {} s", PAGE_TIMEOUT.as_secs()))
    }
}

/// Follows one kind for ever.
pub async fn follow<T, S>(
    client: Client,
    sink: Arc<S>,
    metrics: Arc<Metrics>,
    timings: WatchTimings,
) where
    T: WatchedKind,
    S: ObjectSink<T>,
{
    let start = Instant::now();
    let mut state = FollowState::new(timings.relist);
    loop {
        let begun = Instant::now();
        let action = state.next(Moment::after_start(begun - start));
        let mut proven = false;
        let result = match action {
            WatchAction::ProbeWatch => probe_watch::<T>(&client, &*sink).await,
            WatchAction::List => list::<T>(&client, &*sink, &metrics).await,
            WatchAction::CheckServer => check_server::<T>(&client, &*sink).await,
            WatchAction::Watch => {
                let mut watch = Watch {
                    client: &client,
                    sink: &*sink,
                    metrics: &metrics,
                    relist_at: start + state.relist_at().since_start(),
                    idle: timings.idle,
                    brought_event: false,
                };
                let result = watch.follow::<T>().await;
                proven = watch.brought_event || begun.elapsed() >= PROVEN.min(timings.idle);
                result
            }
        };
        let ended = match result {
            Ok(()) => Ended::Done,
            Err(interruption) => take_in::<T>(interruption, &*sink, &metrics),
        };
        let now = Moment::after_start(start.elapsed());
        let pause = state.step(action, ended, proven, now, backoff::random());
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
}

/// Reports an interruption, and says what it means for what comes next.
fn take_in<T: WatchedKind>(
    interruption: Interruption,
    sink: &impl StreamSink,
    metrics: &Metrics,
) -> Ended {
    let kind = T::KIND.as_str();
    match interruption {
        Interruption::Relist(reason) => {
            info!(kind, reason, "listing again");
            Ended::Relist
        }
        Interruption::Failed {
            message: error,
            forbidden,
            halfway,
        } => {
            warn!(kind, error, "can't follow; trying again");
            metrics.watch_failed(kind);
            sink.stream_fails(T::KIND, error, forbidden);
            // After a long silence only a list shows whether what is known is still so.
            let resumable = !forbidden && !halfway && sink.is_good(T::KIND);
            Ended::Failed {
                forbidden,
                resumable,
            }
        }
    }
}

/// Asks how far the server is.
async fn check_server<T: WatchedKind>(
    client: &Client,
    sink: &impl StreamSink,
) -> Result<(), Interruption> {
    let (version, _) = count(client, T::PATH, None).await?;
    if version < sink.version(T::KIND) {
        let reason = "the server is behind what it sent before";
        return Err(Interruption::Relist(reason));
    }
    Ok(())
}

/// The server's version, and how many objects there are; at exactly this version, if one is given.
pub(crate) async fn count(
    client: &Client,
    path: &str,
    at: Option<u64>,
) -> Result<(u64, usize), Interruption> {
    let mut params = ListParams::default().limit(1);
    if let Some(at) = at.filter(|at| *at > 0) {
        params = params.at(&at.to_string()).matching(VersionMatch::Exact);
    }
    let request = Request::new(path).list(&params);
    let list = timeout(
        PAGE_TIMEOUT,
        client.request::<CountPage>(request.map_err(Interruption::failed)?),
    )
    .await??;
    let more = usize::try_from(list.metadata.remaining_item_count.unwrap_or(0)).unwrap_or(0);
    Ok((
        version(&list.metadata.resource_version),
        list.items.len() + more,
    ))
}

/// Asks whether a watch would be refused.
async fn probe_watch<T: WatchedKind>(
    client: &Client,
    sink: &impl StreamSink,
) -> Result<(), Interruption> {
    let from = sink.version(T::KIND).to_string();
    let request = Request::new(T::PATH).watch(&WatchParams::default().timeout(1), &from);
    let request = request.map_err(Interruption::failed)?;
    match timeout(PAGE_TIMEOUT, client.request_stream(request)).await? {
        Err(error) if has_code(&error, 403) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Reads a complete list, page by page. A quorum read: no resource version is given, so it is never old.
async fn list<T: WatchedKind>(
    client: &Client,
    sink: &impl ObjectSink<T>,
    metrics: &Metrics,
) -> Result<(), Interruption> {
    let (kind, begun) = (T::KIND.as_str(), sink.now());
    sink.list_begins(T::KIND);
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let halfway = params.continue_token.is_some();
        let page = read_page::<T>(client, &params).await;
        let page = page.map_err(|interruption| match interruption {
            Interruption::Failed {
                message, forbidden, ..
            } => Interruption::Failed {
                message,
                forbidden,
                halfway,
            },
            relist @ Interruption::Relist(_) => relist,
        })?;
        let count = page.items.len();
        let warnings = sink.seen(page.items, true);
        metrics.listed(kind, count);
        warn_of(&warnings, metrics);
        let Some(next) = page.metadata.next.filter(|next| !next.is_empty()) else {
            let version = version(&page.metadata.resource_version);
            let set_back = sink.list_ends(T::KIND, version, begun);
            debug!(kind, "listed");
            if set_back {
                warn!(
                    kind,
                    version,
                    "the cluster's store was set back to an older state; reading everything again"
                );
            }
            return Ok(());
        };
        params = params.continue_token(&next);
        tokio::task::yield_now().await;
    }
}

async fn read_page<T: WatchedKind>(
    client: &Client,
    params: &ListParams,
) -> Result<List<Decoded<T>>, Interruption> {
    let request = Request::new(T::PATH).list(params);
    let request = request.map_err(Interruption::failed)?;
    match timeout(PAGE_TIMEOUT, client.request_text(request)).await? {
        Err(error) if has_code(&error, 410) => {
            let reason = "the list's continue token has expired";
            Err(Interruption::Relist(reason))
        }
        text => List::read(text?.as_bytes()).map_err(|error| Interruption::unreadable(&error)),
    }
}

/// A watch of one kind.
struct Watch<'a, S> {
    client: &'a Client,
    sink: &'a S,
    metrics: &'a Metrics,
    /// When a new list is due.
    relist_at: Instant,
    /// How long it may bring nothing.
    idle: Duration,
    brought_event: bool,
}

impl<S> Watch<'_, S> {
    /// Follows the changes from where we are.
    async fn follow<T>(&mut self) -> Result<(), Interruption>
    where
        T: WatchedKind,
        S: ObjectSink<T>,
    {
        let (sink, metrics) = (self.sink, self.metrics);
        let stream = open_watch::<T>(self.client, sink.version(T::KIND)).await?;
        let relist = sleep_until(self.relist_at);
        pin_mut!(stream, relist);
        let mut line = vec![];
        loop {
            // What was read of a line stays in it when another branch is taken.
            let read = tokio::select! {
                read = timeout(self.idle, stream.read_until(b'\n', &mut line)) => read,
                () = sink.relist_requested(T::KIND) => {
                    // A list may have met the request meanwhile.
                    if sink.wants_relist(T::KIND) {
                        return Err(Interruption::Relist("it is requested"));
                    }
                    continue;
                }
                () = &mut relist => return Err(Interruption::Relist("it is due")),
            };
            match read {
                // Nobody knows what happened meanwhile.
                Err(_) => {
                    metrics.watch_failed(T::KIND.as_str());
                    return Err(Interruption::Relist("the watch went silent"));
                }
                Ok(Err(error)) if is_cut(&error) => return Ok(()),
                Ok(Err(error)) => return Err(Interruption::failed(error)),
                Ok(Ok(_)) => {}
            }
            if !line.ends_with(b"\n") {
                return Ok(()); // what is left of a line when the server ends the watch is sent again
            }
            let event = event::<T>(&line).map_err(|error| Interruption::unreadable(&error))?;
            line.clear();
            line.shrink_to(LINE);
            metrics.watched(T::KIND.as_str());
            apply(event, sink, metrics)?;
            self.brought_event = true;
        }
    }
}

async fn open_watch<T: WatchedKind>(
    client: &Client,
    from: u64,
) -> Result<impl AsyncBufRead + use<T>, Interruption> {
    let params = WatchParams::default().timeout(WATCH_SECONDS);
    let request = Request::new(T::PATH).watch(&params, &from.to_string());
    let mut request = request.map_err(Interruption::failed)?;
    // A server that zips would make a whole of each event; nothing here unzips that.
    let plain = HeaderValue::from_static("identity");
    request.headers_mut().insert(ACCEPT_ENCODING, plain);
    let stream = timeout(PAGE_TIMEOUT, client.request_stream(request)).await?;
    stream.map_err(Interruption::refused)
}

fn apply<T: WatchedKind>(
    event: WatchEvent<Decoded<T>>,
    sink: &impl ObjectSink<T>,
    metrics: &Metrics,
) -> Result<(), Interruption> {
    match event {
        WatchEvent::Added(seen) | WatchEvent::Modified(seen) => {
            warn_of(&sink.seen([seen], false), metrics);
        }
        WatchEvent::Deleted(seen) => sink.deleted(&seen),
        WatchEvent::Bookmark(bookmark) => {
            sink.bookmark(T::KIND, version(&bookmark.metadata.resource_version));
        }
        WatchEvent::Error(status) => return Err(Interruption::refused(kube::Error::Api(status))),
    }
    Ok(())
}

fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Whether the connection ended in the midst of an answer: so a watch ends when the server stops.
fn is_cut(error: &io::Error) -> bool {
    let mut causes = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

fn warn_of(warnings: &[String], metrics: &Metrics) {
    for warning in warnings {
        metrics.warned();
        warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_ends_in_an_answer_is_a_cut_and_nothing_else_is() {
        let wrapped = |kind: io::ErrorKind| {
            [
                io::Error::from(kind),
                io::Error::other(io::Error::new(kind, "x")),
                io::Error::other(anyhow::Error::from(io::Error::from(kind)).context("a body")),
            ]
        };
        assert!(wrapped(io::ErrorKind::UnexpectedEof).iter().all(is_cut));
        assert!(!wrapped(io::ErrorKind::ConnectionReset).iter().any(is_cut));
    }
}
