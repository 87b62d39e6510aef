//! The list/watch loop of pods, deployments and namespaces. Our own, because the log must know the resource versions of
//! lists and bookmarks, and because one object that can't be read must not stop the others. Nothing slow happens here: the
//! API server closes the watch of a slow reader without a word.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, pin_mut};
use kube::{
    Client,
    api::{ListParams, WatchEvent, WatchParams},
    core::Request,
};
use serde::Deserialize;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::{
    hub::Hub,
    metrics::Metrics,
    model::{
        Moment,
        view::{DeploymentView, NamespaceView, PodView, Seen, View, version},
        world::{Kind, World},
    },
};

/// Objects a page. A page is held in memory three times over before it is read, and what the allocator once had it keeps:
/// with 500 that was most of the memory of a small cluster.
const PAGE: u32 = 200;
/// A page that takes longer will not come.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// The server ends a watch after so long (kube's own choice).
const WATCH_SECONDS: u32 = 290;
/// A watch without an event or a bookmark for so long is dead: bookmarks come about every minute.
const IDLE: Duration = Duration::from_secs(150);
/// What a watch lost is found by a new list after so long, and up to a fifth more.
const RELIST: Duration = Duration::from_secs(30 * 60);
/// Pauses between attempts double from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A kind that is watched: where it is found, and where what is seen of it goes.
pub struct Feed<T> {
    kind: Kind,
    path: &'static str,
    seen: fn(&mut World, Seen<T>, bool, Moment) -> Vec<String>,
    deleted: fn(&mut World, &Seen<T>, Moment),
}

impl<T> Clone for Feed<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Feed<T> {}

/// Pods.
pub const PODS: Feed<PodView> = Feed {
    kind: Kind::Pods,
    path: "/api/v1/pods",
    seen: World::pod_seen,
    deleted: World::pod_deleted,
};
/// Deployments.
pub const DEPLOYMENTS: Feed<DeploymentView> = Feed {
    kind: Kind::Deployments,
    path: "/apis/apps/v1/deployments",
    seen: World::deployment_seen,
    deleted: World::deployment_deleted,
};
/// Namespaces.
pub const NAMESPACES: Feed<NamespaceView> = Feed {
    kind: Kind::Namespaces,
    path: "/api/v1/namespaces",
    seen: World::namespace_seen,
    deleted: World::namespace_deleted,
};

#[derive(Deserialize)]
#[serde(bound(deserialize = "T: View"))]
struct List<T> {
    metadata: ListMeta,
    items: Vec<Seen<T>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

/// Why a list or a watch ended.
enum End {
    /// The server ended it in the ordinary way: go on from where it was.
    Resume,
    /// A new list is wanted, or the server has forgotten where we were.
    Relist,
    /// It failed; whether we may not read this kind at all.
    Failed(String, bool),
}

/// Follows one kind for ever.
pub async fn follow<T>(client: Client, feed: Feed<T>, hub: Arc<Hub>, metrics: Arc<Metrics>)
where
    T: View + Clone + Send + 'static,
{
    let mut pause = BACKOFF.0;
    let mut resume = false;
    let mut relist_at = Instant::now();
    loop {
        let end = if resume && Instant::now() < relist_at {
            watch(&client, feed, &hub, &metrics, relist_at).await
        } else {
            let listed = list(&client, feed, &hub, &metrics).await;
            if matches!(listed, End::Resume) {
                relist_at = Instant::now() + RELIST + jitter(RELIST / 5);
                pause = BACKOFF.0;
            }
            listed
        };
        resume = matches!(end, End::Resume);
        if let End::Failed(why, forbidden) = end {
            warn!(kind = feed.kind.as_str(), %why, "can't follow; trying again");
            metrics.watch_failed(feed.kind);
            hub.with(|world, now| world.stream_fails(feed.kind, why, forbidden, now));
            // Where we were may still be known to the server: a list is dear, and a watch that can't resume says so.
            resume = !forbidden && hub.with(|world, _| world.stream(feed.kind).synced);
            sleep(pause + jitter(pause)).await;
            pause = (pause * 2).min(BACKOFF.1);
        } else if resume {
            pause = BACKOFF.0;
        }
    }
}

/// Reads a complete list, page by page. A quorum read: no resource version is given, so it is never old.
async fn list<T>(client: &Client, feed: Feed<T>, hub: &Hub, metrics: &Metrics) -> End
where
    T: View + Clone + Send + 'static,
{
    let begun = hub.now();
    hub.with(|world, _| world.list_begins(feed.kind));
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let request = match Request::new(feed.path).list(&params) {
            Ok(request) => request,
            Err(error) => return End::Failed(error.to_string(), false),
        };
        let page = match timeout(PAGE_TIMEOUT, client.request::<List<T>>(request)).await {
            Err(_) => {
                return End::Failed(format!("no answer in {} s", PAGE_TIMEOUT.as_secs()), false);
            }
            // The continue token has expired: what was read so far is no list.
            Ok(Err(kube::Error::Api(status))) if status.code == 410 => return End::Relist,
            Ok(Err(error)) => return failed(&error),
            Ok(Ok(page)) => page,
        };
        let count = page.items.len();
        let warnings = hub.with(|world, now| {
            let seen = page
                .items
                .into_iter()
                .flat_map(|item| (feed.seen)(world, item, true, now));
            seen.collect::<Vec<_>>()
        });
        metrics.listed(feed.kind, count);
        tell(&warnings, metrics);
        match page.metadata.next.filter(|next| !next.is_empty()) {
            Some(next) => params = params.continue_token(&next),
            None => {
                hub.with(|world, now| {
                    world.list_ends(
                        feed.kind,
                        version(&page.metadata.resource_version),
                        begun,
                        now,
                    )
                });
                debug!(kind = feed.kind.as_str(), "listed");
                return End::Resume;
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Follows the changes from where we are.
async fn watch<T>(
    client: &Client,
    feed: Feed<T>,
    hub: &Hub,
    metrics: &Metrics,
    relist_at: Instant,
) -> End
where
    T: View + Clone + Send + 'static,
{
    let from = hub
        .with(|world, _| world.stream(feed.kind).version)
        .to_string();
    let request = match Request::new(feed.path)
        .watch(&WatchParams::default().timeout(WATCH_SECONDS), &from)
    {
        Ok(request) => request,
        Err(error) => return End::Failed(error.to_string(), false),
    };
    let stream = match timeout(PAGE_TIMEOUT, client.request_events::<Seen<T>>(request)).await {
        Err(_) => return End::Failed(format!("no answer in {} s", PAGE_TIMEOUT.as_secs()), false),
        Ok(Err(kube::Error::Api(status))) if status.code == 410 => return End::Relist,
        Ok(Err(error)) => return failed(&error),
        Ok(Ok(stream)) => stream,
    };
    pin_mut!(stream);
    loop {
        let event = tokio::select! {
            event = timeout(IDLE, stream.next()) => event,
            () = hub.relist_wanted(feed.kind).notified() => {
                info!(kind = feed.kind.as_str(), "listing anew, as wanted");
                return End::Relist;
            }
            () = sleep_until(relist_at) => return End::Relist,
        };
        let event = match event {
            Err(_) => return End::Failed("the watch went silent".to_owned(), false),
            Ok(None) => return End::Resume,
            Ok(Some(Err(error))) => return failed(&error),
            Ok(Some(Ok(event))) => event,
        };
        metrics.watched(feed.kind);
        let warnings = hub.with(|world, now| match event {
            WatchEvent::Added(seen) | WatchEvent::Modified(seen) => {
                Ok((feed.seen)(world, seen, false, now))
            }
            WatchEvent::Deleted(seen) => {
                (feed.deleted)(world, &seen, now);
                Ok(vec![])
            }
            WatchEvent::Bookmark(bookmark) => {
                world.bookmark(feed.kind, version(&bookmark.metadata.resource_version), now);
                Ok(vec![])
            }
            WatchEvent::Error(status) => Err(status),
        });
        match warnings {
            Ok(warnings) => tell(&warnings, metrics),
            Err(status) if status.code == 410 => {
                info!(
                    kind = feed.kind.as_str(),
                    "the server has forgotten where we were; listing anew"
                );
                return End::Relist;
            }
            Err(status) => return End::Failed(status.message, status.code == 403),
        }
    }
}

fn failed(error: &kube::Error) -> End {
    match error {
        kube::Error::Api(status) => {
            let forbidden = status.code == 403;
            let cure = if forbidden {
                "; give the operator its ClusterRole again (helm upgrade)"
            } else {
                ""
            };
            End::Failed(format!("{}{cure}", status.message), forbidden)
        }
        error => End::Failed(error.to_string(), false),
    }
}

fn tell(warnings: &[String], metrics: &Metrics) {
    for warning in warnings {
        metrics.warned();
        warn!("{warning}");
    }
}

/// A part of `span` that differs from process to process and from time to time.
pub fn jitter(span: Duration) -> Duration {
    use std::hash::{BuildHasher as _, RandomState};
    let random = RandomState::new().hash_one(0) % 1_000;
    span.mul_f64(f64::from(u32::try_from(random).unwrap_or(0)) / 1_000.0)
}

/// Compares how many pods there are with how many we know, and asks for a new list when they differ twice in a row.
pub async fn check(client: Client, hub: Arc<Hub>, metrics: Arc<Metrics>, every: Duration) {
    let mut differed = false;
    loop {
        sleep(every + jitter(every / 5)).await;
        let astray = hub.with(|world, now| world.self_check(now));
        metrics.astray(astray);
        let Ok(request) = Request::new(PODS.path).list(&ListParams::default().limit(1)) else {
            continue;
        };
        let Ok(Ok(list)) = timeout(PAGE_TIMEOUT, client.request::<Count>(request)).await else {
            continue;
        };
        let there = list.items.len()
            + usize::try_from(list.metadata.remaining_item_count.unwrap_or(0)).unwrap_or(0);
        let differs =
            hub.with(|world, _| world.stream(Kind::Pods).synced && world.fleet().len() != there);
        if differs && differed {
            warn!("the number of pods differs from what the watch told; listing anew");
            hub.with(|world, _| world.want_relist(Kind::Pods));
        }
        differed = differs;
    }
}

#[derive(Deserialize)]
struct Count {
    metadata: CountMeta,
    items: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CountMeta {
    #[serde(default)]
    remaining_item_count: Option<i64>,
}
