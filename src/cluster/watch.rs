#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Lists and watches a kind: the one loop for all kinds. Our own, because the log must know the resource versions of
//! lists and bookmarks, and because one object that can't be read must not stop the others. Nothing slow happens here: the
//! API server closes the watch of a slow reader without a word.

use std::{fmt::Display, io, mem, time::Duration};

use futures::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, pin_mut};
use http::{HeaderValue, header::ACCEPT_ENCODING};
use kube::{
    Client,
    api::{ListParams, VersionMatch, WatchEvent, WatchParams},
    core::Request,
};
use parking_lot::Mutex;
use tokio::time::{Instant, error::Elapsed, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::{
    backoff,
    cluster::{
        custom_resource_status::has_code,
        decode::event,
        list_page::{AnyObject, ListMeta, MAX_OBJECT, PageReader, PageSize},
        pod_view::{Decoded, DeploymentView, Meta, NamespaceView, PodView, SlimView, version},
        watch_progress::{ListEnd, WatchKind},
        watch_state::{Ended, FollowState, WatchAction},
    },
    http::error::causes,
    metrics::Metrics,
    rate::Rate,
    time::Moment,
};

/// How long to wait for an answer.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the server keeps a watch open (kube's own choice).
const WATCH_SECONDS: u32 = 290;
/// How much room for a line of a watch is kept from line to line; few are longer.
const LINE: usize = 64 << 10;
/// At most so many warnings about single objects are logged a second.
const WARNINGS_PER_SECOND: u32 = 10;
/// The most that a line of a watch may have: an object, and what is said of it.
const LONGEST_LINE: u64 = MAX_OBJECT as u64 + 1_024;

/// Why to list again when somebody asks for that.
const REQUESTED: &str = "it is requested";

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
    /// The resource version from which a kind can be watched on; `None` if it has to be listed first.
    fn resumes_at(&self, kind: WatchKind) -> Option<u64>;
    /// Whether what is known of a kind can be relied on.
    fn is_good(&self, kind: WatchKind) -> bool;
    /// Resolves after a new list of a kind was requested. It may have been read meanwhile.
    fn relist_requested(&self, kind: WatchKind) -> impl Future<Output = ()> + Send;
    /// A list begins.
    fn list_begins(&self, kind: WatchKind);
    /// The list that began at `begun` is complete.
    fn list_ends(&self, kind: WatchKind, version: u64, begun: Moment) -> ListEnd;
    /// A bookmark: nothing happened up to this version.
    fn bookmark(&self, kind: WatchKind, version: u64);
    /// An object was read, or could not be: why, and what counts of it. What to warn of.
    fn read(
        &self,
        kind: WatchKind,
        object: Result<&Meta, (&Meta, &str)>,
        listed: bool,
    ) -> Vec<String>;
    /// No watch of this kind goes on just now: whatever happens to the server meanwhile is not noticed.
    fn interrupted(&self, kind: WatchKind);
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

    fn unreadable(error: impl Display) -> Self {
        Self::failed(format!("the answer can't be read: {error}"))
    }

    /// The same after some of a list was taken in, or not.
    fn after(self, taken: bool) -> Self {
        match self {
            Self::Failed {
                message, forbidden, ..
            } => Self::Failed {
                message,
                forbidden,
                halfway: taken,
            },
            relist @ Self::Relist(_) => relist,
        }
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
            kube::Error::Api(status) if status.code == 404 => Self::failed(format!(
                "{}; install the CustomResourceDefinitions again (helm upgrade)",
                status.message
            )),
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
pub async fn follow<T, S>(client: &Client, sink: &S, metrics: &Metrics, timings: WatchTimings)
where
    T: WatchedKind,
    S: ObjectSink<T>,
{
    let start = Instant::now();
    let mut state = FollowState::new(timings.relist);
    loop {
        let begun = Instant::now();
        let action = state.next(Moment::after_start(begun - start));
        let mut proven = false;
        if action != WatchAction::Watch {
            sink.interrupted(T::KIND);
        }
        let result = match action {
            WatchAction::ProbeWatch => probe_watch::<T>(client, sink).await,
            WatchAction::List => list::<T>(client, sink, metrics).await,
            WatchAction::CheckServer => check_server::<T>(client, sink).await,
            WatchAction::Watch => {
                let mut watch = Watch {
                    client,
                    sink,
                    metrics,
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
            Err(interruption) => take_in::<T>(interruption, sink, metrics),
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
    let mut here = 0;
    let take = |objects: Vec<Decoded<AnyObject>>| here += objects.len();
    let (metadata, _) = read_page(client, path, &params, take).await?;
    let more = usize::try_from(metadata.remaining_item_count.unwrap_or(0)).unwrap_or(0);
    Ok((version(&metadata.resource_version), here + more))
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
    let (mut params, mut size) = (ListParams::default(), PageSize::default());
    let mut taken = false;
    loop {
        params = params.limit(size.objects());
        let mut count = 0;
        let take = |objects: Vec<Decoded<T>>| {
            taken = true;
            count += objects.len();
            metrics.listed(kind, objects.len());
            warn_of(&sink.seen(objects, true), metrics);
        };
        let page = read_page(client, T::PATH, &params, take).await;
        let (metadata, bytes) = page.map_err(|interruption| interruption.after(taken))?;
        size = size.after(count, bytes);
        let Some(next) = metadata.next.filter(|next| !next.is_empty()) else {
            let version = version(&metadata.resource_version);
            let reason = match sink.list_ends(T::KIND, version, begun) {
                ListEnd::Complete => {
                    debug!(kind, "listed");
                    return Ok(());
                }
                ListEnd::Outdated => "the cluster's store was set back meanwhile",
                ListEnd::SetBack => "the server is behind what it sent before",
            };
            return Err(Interruption::Relist(reason));
        };
        params = params.continue_token(&next);
    }
}

/// Reads a page as it arrives, and gives its objects to `take` as they come. What the list says of itself, and how many
/// bytes the page had.
async fn read_page<T: SlimView>(
    client: &Client,
    path: &str,
    params: &ListParams,
    mut take: impl FnMut(Vec<Decoded<T>>),
) -> Result<(ListMeta, usize), Interruption> {
    let request = Request::new(path).list(params);
    let request = request.map_err(Interruption::failed)?;
    let stream = match open(client, request).await {
        Err(Interruption::Relist(_)) => {
            let reason = "the list's continue token has expired";
            return Err(Interruption::Relist(reason));
        }
        stream => stream?,
    };
    pin_mut!(stream);
    let mut page = PageReader::default();
    loop {
        let piece = timeout(PAGE_TIMEOUT, stream.fill_buf()).await?;
        let piece = piece.map_err(Interruption::failed)?;
        let length = piece.len();
        let due = page.receive(piece);
        stream.consume_unpin(length);
        if due || length == 0 {
            let objects = page.take().map_err(Interruption::unreadable)?;
            if !objects.is_empty() {
                take(objects);
            }
            // Whoever waits for what was read may go first.
            tokio::task::yield_now().await;
        }
        if length == 0 {
            let received = page.received();
            let metadata = page.finish().map_err(Interruption::unreadable)?;
            return Ok((metadata, received));
        }
    }
}

/// Sends a request whose answer is read as it arrives.
async fn open(
    client: &Client,
    mut request: http::Request<Vec<u8>>,
) -> Result<impl AsyncBufRead + use<>, Interruption> {
    // Nothing here unzips; a server that zips would also make a whole of each event.
    let plain = HeaderValue::from_static("identity");
    request.headers_mut().insert(ACCEPT_ENCODING, plain);
    let stream = timeout(PAGE_TIMEOUT, client.request_stream(request)).await?;
    stream.map_err(Interruption::refused)
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
        let params = WatchParams::default().timeout(WATCH_SECONDS);
        let Some(from) = sink.resumes_at(T::KIND) else {
            return Err(Interruption::Relist(REQUESTED));
        };
        let request = Request::new(T::PATH).watch(&params, &from.to_string());
        let request = request.map_err(Interruption::failed)?;
        let stream = open(self.client, request).await?;
        let relist = sleep_until(self.relist_at);
        pin_mut!(stream, relist);
        let mut line = vec![];
        loop {
            // What was read of a line stays in it when another branch is taken.
            let room = LONGEST_LINE.saturating_sub(line.len() as u64);
            let mut rest = stream.as_mut().take(room);
            let read = tokio::select! {
                read = timeout(self.idle, rest.read_until(b'\n', &mut line)) => read,
                () = sink.relist_requested(T::KIND) => {
                    // A list may have met the request meanwhile.
                    if sink.resumes_at(T::KIND).is_none() {
                        return Err(Interruption::Relist(REQUESTED));
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
            if line.len() as u64 >= LONGEST_LINE && !line.ends_with(b"\n") {
                return Err(Interruption::Relist("an event is too large"));
            }
            if !line.ends_with(b"\n") {
                return Ok(()); // what is left of a line when the server ends the watch is sent again
            }
            let event = event::<T>(&line).map_err(Interruption::unreadable)?;
            line.clear();
            line.shrink_to(LINE);
            metrics.watched(T::KIND.as_str());
            apply(event, sink, metrics)?;
            self.brought_event = true;
        }
    }
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

/// Whether the connection ended in the midst of an answer: so a watch ends when the server stops.
fn is_cut(error: &io::Error) -> bool {
    let mut causes = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

/// Logs warnings. All are counted, and a part of them is logged if there are very many: objects can be made faster than
/// anybody reads.
fn warn_of(warnings: &[String], metrics: &Metrics) {
    static LOGGED: Mutex<(Rate, u64)> = Mutex::new((Rate::per_second(WARNINGS_PER_SECOND), 0));
    for warning in warnings {
        metrics.warned();
        let mut logged = LOGGED.lock();
        let (rate, left_out) = &mut *logged;
        if !rate.take(Instant::now().into_std()) {
            *left_out += 1;
            continue;
        }
        match mem::take(left_out) {
            0 => warn!("{warning}"),
            left_out => warn!(left_out, "{warning}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::snapshot::{shared_state::SharedState, state::ClusterState};

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

    #[test]
    fn what_may_not_be_read_is_known_by_the_code_whatever_reason_is_given() {
        for reason in ["Forbidden", "", "Policy", "Unknown", "BadRequest"] {
            let status = kube::core::Status::failure("no", reason).with_code(403);
            let refused = Interruption::from(kube::Error::Api(status.boxed()));
            let forbidden = matches!(refused, Interruption::Failed { forbidden, .. } if forbidden);
            assert!(forbidden, "{reason}");
        }
    }

    /// A pod, as JSON.
    fn pod(name: &str) -> String {
        serde_json::json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "1", "annotations": {"a": "x".repeat(1_000)}},
            "spec": {"containers": [{"name": "web", "image": "a"}]},
        })
        .to_string()
    }

    #[tokio::test]
    async fn the_objects_of_a_page_are_taken_in_while_the_rest_of_it_is_on_its_way() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = SharedState::new(ClusterState::new(true, "shipbell"));
        let pods: Vec<_> = (0..100).map(|number| pod(&format!("p{number}"))).collect();
        let server = tokio::spawn({
            let state = state.clone();
            async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![];
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n";
                let begin = format!(
                    r#"{head}{{"metadata":{{"resourceVersion":"7"}},"items":[{}"#,
                    pods.join(",")
                );
                stream.write_all(begin.as_bytes()).await.unwrap();
                // The end is sent only when something of the beginning was taken in.
                while state.with(|state, _| state.fleet().pod_count()) == 0 {
                    tokio::task::yield_now().await;
                }
                let end = format!(",{}]}}", pod("last"));
                stream.write_all(end.as_bytes()).await.unwrap();
            }
        });
        let config = kube::Config::new(format!("http://{address}").parse().unwrap());
        let client = Client::try_from(config).unwrap();
        let metrics = Metrics::new();
        let listed = list::<PodView>(&client, &*state, &metrics);
        let listed = timeout(Duration::from_secs(30), listed).await;
        assert!(matches!(listed, Ok(Ok(()))), "it waits for the whole page");
        server.await.unwrap();
        let (pods, version) = state.with(|state, _| {
            (
                state.fleet().pod_count(),
                state.stream(WatchKind::Pods).version,
            )
        });
        assert_eq!((pods, version), (101, 7));
    }
}
