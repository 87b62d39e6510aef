//! The subject to compare with, as one would write it in an afternoon with kube's own parts: `watcher` and
//! `reflector<Pod>`, the images of a pod compared at each event, a POST with a client of its own for each change.
//! It keeps no log, retries nothing, and says nothing of how it fares. All that it does is done in its favour: one
//! thread, images by digest, no POST before the first list is complete.

use anyhow::{Context as _, Result};
use axum::{Router, extract::State, http::StatusCode, routing::get};
use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt as _,
        reflector::{self, ObjectRef},
        watcher,
    },
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

#[derive(Default)]
struct Told {
    ready: AtomicBool,
    events: AtomicU64,
}

/// Runs it until the process is killed.
pub fn run(listen: SocketAddr, post: Option<String>, ca: Option<PathBuf>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(follow(listen, post, ca))
}

async fn follow(listen: SocketAddr, post: Option<String>, ca: Option<PathBuf>) -> Result<()> {
    let told = Arc::new(Told::default());
    let app = Router::new()
        .route(
            "/readyz",
            get(|State(told): State<Arc<Told>>| async move {
                if told.ready.load(Relaxed) {
                    (StatusCode::OK, "ok")
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "not in sync")
                }
            }),
        )
        .route(
            "/metrics",
            get(|State(told): State<Arc<Told>>| async move {
                format!(
                    "shipbell_watch_events_total{{kind=\"pods\"}} {}\n",
                    told.events.load(Relaxed)
                )
            }),
        )
        .with_state(told.clone());
    let listener = tokio::net::TcpListener::bind(listen).await?;
    tokio::spawn(axum::serve(listener, app).into_future());

    let ca = ca.map(std::fs::read).transpose()?;
    let client = Client::try_default().await.context("no cluster")?;
    let (pods, mut writer) = reflector::store();
    let events = watcher(Api::<Pod>::all(client), watcher::Config::default()).default_backoff();
    pin_mut!(events);
    while let Some(event) = events.next().await {
        let event = event?;
        let mut images = None;
        match &event {
            watcher::Event::Apply(pod) => {
                let before = pods.get(&ObjectRef::from_obj(pod));
                images = Some((
                    before.map(|pod| running(&pod)).unwrap_or_default(),
                    running(pod),
                ));
            }
            watcher::Event::Delete(pod) => images = Some((running(pod), BTreeSet::new())),
            _ => {}
        }
        writer.apply_watcher_event(&event);
        match event {
            watcher::Event::InitDone => told.ready.store(true, Relaxed),
            watcher::Event::Apply(_) | watcher::Event::Delete(_) => {
                told.events.fetch_add(1, Relaxed);
            }
            _ => {}
        }
        if let (Some((before, now)), Some(url)) = (images, &post)
            && before != now
        {
            for (type_, image) in (now
                .difference(&before)
                .map(|image| ("ARTIFACT_STARTED", image)))
            .chain(
                before
                    .difference(&now)
                    .map(|image| ("ARTIFACT_STOPPED", image)),
            ) {
                let body = json!({"event_type": type_, "artifact": image}).to_string();
                tokio::spawn(send(url.clone(), body, ca.clone()));
            }
        }
    }
    Ok(())
}

/// The images that a pod runs, as the runtime names them.
fn running(pod: &Pod) -> BTreeSet<String> {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let running = statuses.filter(|status| {
        status
            .state
            .as_ref()
            .is_some_and(|state| state.running.is_some())
    });
    running.map(|status| status.image_id.clone()).collect()
}

/// POSTs with a client of its own.
pub async fn send(url: String, body: String, ca: Option<Vec<u8>>) -> Result<()> {
    let mut client = reqwest::Client::builder();
    if let Some(ca) = ca {
        // Only this one: to read the system's some hundred certificates takes longer than all the rest.
        client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(&ca)?);
    }
    client
        .build()?
        .post(url)
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await?
        .error_for_status()?;
    Ok(())
}
