//! The read API of the log, and of what is known about images: as JSON and as pages. Its paths and shapes are those of
//! Kosli, so that the links in payloads resolve.

use std::ops::Range;

use axum::{
    Json, Router,
    extract::{self, FromRequestParts, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    middleware::{from_fn_with_state, map_response},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, get},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    cluster::image::Fingerprint,
    web::{
        access::{self, Access},
        error_response::Refusal,
        html,
        lookup::Lookup,
        parts, request_limits,
        views::{
            artifact::{FlowAnswer, FlowQuery, Wanted},
            environment::EnvironmentView,
        },
    },
};

/// The number of items on a page of a list if the request does not say it.
const PER_PAGE: usize = 15;
/// At most this many items on a page of a list.
const MAX_PER_PAGE: usize = 100;

/// All paths. Every request is checked by `access`.
pub(crate) fn router(lookup: Lookup, access: Access) -> Router {
    let behind_proxy = !matches!(access, Access::ByToken(_));
    let small = Router::new()
        .route("/api/v2/snapshots/{org}/{environment}", get(snapshots))
        .route(
            "/api/v2/environments/{org}/{environment}/events",
            get(events),
        )
        .route("/api/v2/environments/{org}/{environment}", get(environment))
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
        .fallback(async || Refusal::not_found("there is nothing at this path"));
    let large = Router::new()
        .route(
            "/api/v2/snapshots/{org}/{environment}/{snapshot}",
            get(snapshot),
        )
        .route(
            "/{org}/environments/{environment}/snapshots/{snapshot}",
            get(snapshot_page),
        )
        .route("/api/v2/environments/{org}", get(environments))
        .route("/{org}/environments/{environment}", get(environment_page))
        .route("/api/v2/allowlists/{org}", get(allow_lists))
        .route("/api/v2/allowlists/{org}/{environment}", get(allow_list));
    request_limits::limit_read_api(small, large, behind_proxy)
        .method_not_allowed_fallback(async || {
            Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this API is only read: use GET",
            )
        })
        // Before the limit: who may not read takes no reader's place.
        .layer(from_fn_with_state(access, access::check))
        .layer(map_response(never_store))
        .with_state(lookup)
}

/// What is answered is for this reader and this moment.
async fn never_store(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

type EnvironmentLabel = Path<(String, String)>;
type OfSnapshot = Path<(String, String, String)>;
type OfFlow = Path<(String, String, String)>;

/// What a path holds. Unlike `axum`'s own it is refused as JSON.
struct Path<T>(T);

impl<T, S> FromRequestParts<S> for Path<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match extract::Path::from_request_parts(parts, state).await {
            Ok(extract::Path(names)) => Ok(Self(names)),
            Err(error) => Err(Refusal::new(error.status(), error.body_text())),
        }
    }
}

/// Which page of a list is requested.
#[derive(Debug, Deserialize)]
struct Paging {
    page: Option<usize>,
    per_page: Option<usize>,
    reverse: Option<bool>,
}

impl<S: Send + Sync> FromRequestParts<S> for Paging {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(paging)) => Ok(paging),
            Err(error) => {
                let (error, accepted) = (error.body_text(), Self::accepted());
                Err(Refusal::bad_request(format!("{error}; {accepted}")))
            }
        }
    }
}

impl Paging {
    /// What a request may ask for.
    fn accepted() -> String {
        format!("page counts from 1, per_page from 1 to {MAX_PER_PAGE}, reverse is true or false")
    }

    /// Which of so many items are on the page: their positions in the order of the page, of which 0 is the newest item
    /// unless the order is reversed.
    fn of(&self, total: usize) -> Result<Page, Refusal> {
        let (page, per_page) = (self.page.unwrap_or(1), self.per_page.unwrap_or(PER_PAGE));
        if page == 0 || per_page == 0 || per_page > MAX_PER_PAGE {
            return Err(Refusal::bad_request(Self::accepted()));
        }
        let start = (page - 1).saturating_mul(per_page).min(total);
        let end = start.saturating_add(per_page).min(total);
        let reversed = self.reverse == Some(true);
        let newest_first = match reversed {
            true => total - end..total - start,
            false => start..end,
        };
        let mut headers = HeaderMap::new();
        headers.insert("x-total-count", total.into());
        headers.insert("x-total-pages", total.div_ceil(per_page).into());
        Ok(Page {
            headers,
            newest_first,
            reversed,
        })
    }
}

/// What is on a page of a list.
struct Page {
    headers: HeaderMap,
    /// The positions of its items in the list with the newest first.
    newest_first: Range<usize>,
    reversed: bool,
}

impl Page {
    /// The answer with these items, the newest first.
    fn answer<T: Serialize>(self, mut items: Vec<T>) -> Response {
        if self.reversed {
            items.reverse();
        }
        (self.headers, Json(items)).into_response()
    }
}

async fn snapshots(
    State(lookup): State<Lookup>,
    Path((org, environment)): EnvironmentLabel,
    paging: Paging,
) -> Result<Response, Refusal> {
    let log = lookup.log_of(&org, &environment)?;
    let all = lookup.indexes(&log).await?;
    let total = usize::try_from(all.end - all.start).unwrap_or(0);
    let page = paging.of(total)?;
    let newest_first = page.newest_first.clone();
    let indexes = all
        .clone()
        .rev()
        .skip(newest_first.start)
        .take(newest_first.len());
    let lines = lookup.lines(&log, indexes, all.end - 1).await?;
    Ok(page.answer(lines))
}

async fn snapshot(
    State(lookup): State<Lookup>,
    Path((org, environment, expression)): OfSnapshot,
) -> Result<Response, Refusal> {
    let log = lookup.log_of(&org, &environment)?;
    let index = lookup.index(&log, &expression).await?;
    let found = lookup.snapshot(&log, index).await?;
    Ok(parts::json(&found.view(&lookup.installation)))
}

async fn snapshot_page(
    State(lookup): State<Lookup>,
    Path((org, environment, expression)): OfSnapshot,
) -> Result<Response, Refusal> {
    let log = lookup.log_of(&org, &environment)?;
    let index = lookup.index(&log, &expression).await?;
    let found = lookup.snapshot(&log, index).await?;
    let events = lookup.events(&log, index).await?;
    let view = found.view(&lookup.installation);
    let artifacts = view.artifacts.iter();
    Ok(html::snapshot(&environment, &view, artifacts, &events))
}

async fn events(
    State(lookup): State<Lookup>,
    Path((org, environment)): EnvironmentLabel,
    paging: Paging,
) -> Result<Response, Refusal> {
    let log = lookup.log_of(&org, &environment)?;
    let counts = lookup.event_counts(&log).await?;
    let page = paging.of(counts.values().sum())?;
    let events = lookup.some_events(&log, &counts, page.newest_first.clone());
    let events = events.await?;
    Ok(page.answer(events))
}

async fn environments(
    State(lookup): State<Lookup>,
    Path(org): Path<String>,
) -> Result<Response, Refusal> {
    lookup.check_org(&org)?;
    Ok(parts::json(&lookup.all_environments()))
}

async fn environment(
    State(lookup): State<Lookup>,
    Path((org, environment)): EnvironmentLabel,
) -> Result<Json<EnvironmentView>, Refusal> {
    lookup.known(&org, &environment)?;
    Ok(Json(lookup.environment(&environment)))
}

async fn environment_page(
    State(lookup): State<Lookup>,
    Path((org, environment)): EnvironmentLabel,
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
) -> Result<Response, Refusal> {
    lookup.check_org(&org)?;
    Ok(parts::json(&lookup.allow_list(None)))
}

async fn allow_list(
    State(lookup): State<Lookup>,
    Path((org, environment)): EnvironmentLabel,
) -> Result<Response, Refusal> {
    lookup.known(&org, &environment)?;
    Ok(parts::json(&lookup.allow_list(Some(&environment))))
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

#[cfg(test)]
mod tests {
    use axum::{body::to_bytes, http::Request};
    use serde_json::Value;

    use super::*;

    async fn paging(query: &str) -> Result<Paging, (StatusCode, String)> {
        let request = Request::get(format!("/list{query}")).body(()).unwrap();
        let (mut parts, ()) = request.into_parts();
        let refusal = match Paging::from_request_parts(&mut parts, &()).await {
            Ok(paging) => return Ok(paging),
            Err(refusal) => refusal.into_response(),
        };
        let status = refusal.status();
        let body = to_bytes(refusal.into_body(), 1 << 10).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        Err((status, body["message"].as_str().unwrap().to_owned()))
    }

    #[tokio::test]
    async fn a_malformed_query_is_refused_as_json_that_names_the_parameter_and_what_it_may_be() {
        for (query, parameter) in [
            ("?page=abc", "page: "),
            ("?per_page=-1", "per_page: "),
            ("?reverse=maybe", "reverse: "),
            ("?page=1&page=2", "page"),
        ] {
            let (status, message) = paging(query).await.unwrap_err();
            assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
            assert!(message.contains(parameter), "{query}: {message}");
            let accepted = "page counts from 1, per_page from 1 to 100,";
            assert!(message.contains(accepted), "{message}");
        }
        let read = paging("?page=2&per_page=100&reverse=true&other=x").await;
        let Paging {
            page,
            per_page,
            reverse,
        } = read.unwrap();
        assert_eq!((page, per_page, reverse), (Some(2), Some(100), Some(true)));
    }
}
