//! The read API of the log, and of what is known about images: as JSON and as pages. Its paths and shapes are those of
//! Kosli, so that the links in payloads resolve.

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::HeaderMap,
    middleware::from_fn_with_state,
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, get},
};
use serde::Deserialize;

use crate::{
    cluster::image::Fingerprint,
    web::{
        access::{self, Access},
        error_response::Refusal,
        html,
        lookup::Lookup,
        views::{
            artifact::{FlowAnswer, FlowQuery, Wanted},
            environment::{AllowedView, EnvironmentView},
            snapshot::SnapshotView,
        },
    },
};

/// The number of items on a page of a list if the request does not say it.
const PER_PAGE: usize = 15;
/// At most this many items on a page of a list.
const MAX_PER_PAGE: usize = 100;

/// All paths. Every request is checked by `access`.
pub(crate) fn router(lookup: Lookup, access: Access) -> Router {
    Router::new()
        .route("/api/v2/snapshots/{org}/{environment}", get(snapshots))
        .route(
            "/api/v2/snapshots/{org}/{environment}/{snapshot}",
            get(snapshot),
        )
        .route(
            "/api/v2/environments/{org}/{environment}/events",
            get(events),
        )
        .route(
            "/{org}/environments/{environment}/snapshots/{snapshot}",
            get(snapshot_page),
        )
        .route("/api/v2/environments/{org}", get(environments))
        .route("/api/v2/environments/{org}/{environment}", get(environment))
        .route("/{org}/environments/{environment}", get(environment_page))
        .route("/api/v2/allowlists/{org}", get(allow_lists))
        .route("/api/v2/allowlists/{org}/{environment}", get(allow_list))
        .route(
            "/api/v2/artifacts/{org}/{flow}/fingerprint/{fingerprint}",
            get_of_flow(artifact, json),
        )
        .route(
            "/{org}/{flow}/{fingerprint}",
            get_of_flow(artifact, html::flow_answer),
        )
        .route(
            "/api/v2/deployments/{org}/{flow}/{number}",
            get_of_flow(deployment, json),
        )
        .route(
            "/{org}/flows/{flow}/deployments/{number}",
            get_of_flow(deployment, html::flow_answer),
        )
        .route(
            "/api/v2/approvals/{org}/{flow}/{number}",
            get_of_flow(approval, json),
        )
        .route(
            "/{org}/flows/{flow}/approvals/{number}",
            get_of_flow(approval, html::flow_answer),
        )
        .fallback(async || Refusal::not_found("there is nothing at this path"))
        .layer(from_fn_with_state(access, access::check))
        .with_state(lookup)
}

type OfEnvironment = Path<(String, String)>;
type OfSnapshot = Path<(String, String, String)>;
type OfFlow = Path<(String, String, String)>;

/// Which page of a list is requested.
#[derive(Debug, Deserialize)]
struct Paging {
    page: Option<usize>,
    per_page: Option<usize>,
    reverse: Option<bool>,
}

impl Paging {
    fn apply<T>(&self, mut all: Vec<T>) -> Result<(HeaderMap, Vec<T>), Refusal> {
        let (page, per_page) = (self.page.unwrap_or(1), self.per_page.unwrap_or(PER_PAGE));
        if page == 0 || per_page == 0 || per_page > MAX_PER_PAGE {
            return Err(Refusal::bad_request(format!(
                "page counts from 1, per_page from 1 to {MAX_PER_PAGE}"
            )));
        }
        if self.reverse == Some(true) {
            all.reverse();
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-total-count", all.len().into());
        headers.insert("x-total-pages", all.len().div_ceil(per_page).into());
        let skipped = (page - 1).saturating_mul(per_page);
        let items = all.into_iter().skip(skipped).take(per_page).collect();
        Ok((headers, items))
    }
}

async fn snapshots(
    State(lookup): State<Lookup>,
    Path((org, environment)): OfEnvironment,
    Query(paging): Query<Paging>,
) -> Result<Response, Refusal> {
    let log = lookup.log_of(&org, &environment)?;
    let all = lookup.indexes(&log).await?;
    let newest = all.first().copied().unwrap_or_default();
    let (headers, indexes) = paging.apply(all)?;
    let lines = lookup.lines(&log, indexes, newest).await?;
    Ok((headers, Json(lines)).into_response())
}

async fn snapshot(
    State(lookup): State<Lookup>,
    Path((org, environment, expression)): OfSnapshot,
) -> Result<Json<SnapshotView>, Refusal> {
    let log = lookup.log_of(&org, &environment)?;
    let index = lookup.index(&log, &expression).await?;
    lookup.snapshot(&log, index).await.map(Json)
}

async fn snapshot_page(
    State(lookup): State<Lookup>,
    Path((org, environment, expression)): OfSnapshot,
) -> Result<Response, Refusal> {
    let log = lookup.log_of(&org, &environment)?;
    let index = lookup.index(&log, &expression).await?;
    let snapshot = lookup.snapshot(&log, index).await?;
    let events = lookup.events(&log, index).await?;
    Ok(html::snapshot(&environment, &snapshot, &events))
}

async fn events(
    State(lookup): State<Lookup>,
    Path((org, environment)): OfEnvironment,
    Query(paging): Query<Paging>,
) -> Result<Response, Refusal> {
    let log = lookup.log_of(&org, &environment)?;
    let (headers, events) = paging.apply(lookup.all_events(&log).await?)?;
    Ok((headers, Json(events)).into_response())
}

async fn environments(
    State(lookup): State<Lookup>,
    Path(org): Path<String>,
) -> Result<Json<Vec<EnvironmentView>>, Refusal> {
    lookup.check_org(&org)?;
    Ok(Json(lookup.all_environments()))
}

async fn environment(
    State(lookup): State<Lookup>,
    Path((org, environment)): OfEnvironment,
) -> Result<Json<EnvironmentView>, Refusal> {
    lookup.known(&org, &environment)?;
    Ok(Json(lookup.environment(&environment)))
}

async fn environment_page(
    State(lookup): State<Lookup>,
    Path((org, environment)): OfEnvironment,
) -> Result<Response, Refusal> {
    if Fingerprint::from_hex(&environment).is_some() {
        // No Environment has such a long name. So this is the page of an artifact whose flow is named "environments".
        let flow = "environments".to_owned();
        let answer = of_flow(lookup, (org, flow, environment), artifact).await?;
        return Ok(html::flow_answer(&answer));
    }
    lookup.known(&org, &environment)?;
    let view = lookup.environment(&environment);
    let allowed = lookup.allow_list(Some(&environment));
    Ok(html::environment(&view, &allowed))
}

async fn allow_lists(
    State(lookup): State<Lookup>,
    Path(org): Path<String>,
) -> Result<Json<Vec<AllowedView>>, Refusal> {
    lookup.check_org(&org)?;
    Ok(Json(lookup.allow_list(None)))
}

async fn allow_list(
    State(lookup): State<Lookup>,
    Path((org, environment)): OfEnvironment,
) -> Result<Json<Vec<AllowedView>>, Refusal> {
    lookup.known(&org, &environment)?;
    Ok(Json(lookup.allow_list(Some(&environment))))
}

/// Looks up what `wanted` reads from the last part of the path.
async fn of_flow(
    lookup: Lookup,
    (org, flow, name): (String, String, String),
    wanted: ReadWanted,
) -> Result<FlowAnswer, Refusal> {
    lookup.check_org(&org)?;
    let wanted = wanted(&name).map_err(Refusal::bad_request)?;
    lookup.of_flow(FlowQuery { flow, wanted }).await
}

/// Answers with what is looked up in a flow, as `show` shows it.
fn get_of_flow(wanted: ReadWanted, show: fn(&FlowAnswer) -> Response) -> MethodRouter<Lookup> {
    let answer = move |State(lookup), Path(path): OfFlow| async move {
        let answer = of_flow(lookup, path, wanted).await?;
        Ok::<_, Refusal>(show(&answer))
    };
    get(answer)
}

fn json(answer: &FlowAnswer) -> Response {
    Json(answer).into_response()
}

/// Reads what is wanted; an error says how it is named.
type ReadWanted = fn(&str) -> Result<Wanted, &'static str>;

fn artifact(digest: &str) -> Result<Wanted, &'static str> {
    Fingerprint::from_hex(digest)
        .map(Wanted::Artifact)
        .ok_or("an artifact is named by its SHA-256 digest: 64 lower-case hex digits")
}

fn deployment(number: &str) -> Result<Wanted, &'static str> {
    self::number(number)
        .map(Wanted::Deployment)
        .ok_or("a deployment is named by its number")
}

fn approval(number: &str) -> Result<Wanted, &'static str> {
    self::number(number)
        .map(Wanted::Approval)
        .ok_or("an approval is named by its number")
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok().filter(|number| *number > 0)
}
