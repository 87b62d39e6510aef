//! The read API of the log, in the path forms and shapes of Kosli's, so that the links in payloads resolve; and the page
//! of a snapshot for people.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use tracing::warn;

use crate::{
    api::EnvironmentSnapshotSpec,
    environments::Environments,
    hub::lock,
    logbook::{LogError, Logbook},
    model::{
        fleet::Fleet,
        installation::Installation,
        readout::{self, Which, which},
    },
};

/// What a token may do is asked again after so long.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Tokens that are remembered.
const TOKENS: usize = 1_024;
/// The API server's word for a token is waited for so long.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Items of a page, by default and at most.
const PER_PAGE: (usize, usize) = (15, 100);

/// What the read API is made from.
#[derive(Clone)]
pub struct Archive {
    /// For asking what a token may do.
    pub client: Client,
    /// The log.
    pub logbook: Logbook,
    /// The environments.
    pub environments: Arc<Environments>,
    /// What links say.
    pub installation: Arc<Installation>,
    /// Everyone who reaches it may read: a proxy has asked already.
    pub open: bool,
    /// What tokens may do.
    pub tokens: Arc<Mutex<Tokens>>,
}

/// What tokens may do, by their hash, and when that was asked.
pub type Tokens = BTreeMap<[u8; 32], (bool, Instant)>;

/// The read API.
pub fn router(archive: Archive) -> Router {
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
            get(page),
        )
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .layer(from_fn_with_state(archive.clone(), guard))
        .with_state(archive)
}

/// An answer that says why not.
struct Refusal(StatusCode, String);

impl Refusal {
    fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self(status, why.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"message": self.1}))).into_response()
    }
}

impl From<LogError> for Refusal {
    fn from(error: LogError) -> Self {
        warn!(%error, "can't read the log for the read API");
        Self::new(
            StatusCode::BAD_GATEWAY,
            "the log can't be read now; try again",
        )
    }
}

/// Lets those pass who may get environmentsnapshots, by their Kubernetes token.
async fn guard(State(archive): State<Archive>, request: Request, next: Next) -> Response {
    if archive.open {
        return next.run(request).await;
    }
    let bearer = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let token = bearer
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::trim)
        .filter(|token| !token.is_empty());
    let Some(token) = token else {
        let mut refusal = Refusal::new(
            StatusCode::UNAUTHORIZED,
            "a Kubernetes token is needed: Authorization: Bearer $(kubectl create token NAME)",
        )
        .into_response();
        refusal
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return refusal;
    };
    match archive.may_read(token).await {
        Ok(true) => next.run(request).await,
        Ok(false) => Refusal::new(
            StatusCode::FORBIDDEN,
            "this token may not get environmentsnapshots.shipbell.dev",
        )
        .into_response(),
        Err(why) => {
            warn!(why, "can't ask what a token may do");
            Refusal::new(
                StatusCode::BAD_GATEWAY,
                "the API server doesn't say what this token may do; try again",
            )
            .into_response()
        }
    }
}

impl Archive {
    async fn may_read(&self, token: &str) -> Result<bool, String> {
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some((may, at)) = lock(&self.tokens).get(&key)
            && at.elapsed() < REMEMBERED
        {
            return Ok(*may);
        }
        let may = timeout(TIMEOUT, self.ask(token))
            .await
            .map_err(|_| "no answer".to_owned())?;
        let may = may.map_err(|error| error.to_string())?;
        let mut tokens = lock(&self.tokens);
        tokens.retain(|_, (_, at)| at.elapsed() < REMEMBERED);
        if tokens.len() < TOKENS {
            tokens.insert(key, (may, Instant::now()));
        }
        Ok(may)
    }

    async fn ask(&self, token: &str) -> kube::Result<bool> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let review = Api::<TokenReview>::all(self.client.clone())
            .create(&PostParams::default(), &review)
            .await?;
        let status = review.status.unwrap_or_default();
        let Some(user) = status.user.filter(|_| status.authenticated == Some(true)) else {
            return Ok(false);
        };
        let wish = ResourceAttributes {
            group: Some(crate::api::GROUP.to_owned()),
            resource: Some("environmentsnapshots".to_owned()),
            verb: Some("get".to_owned()),
            ..ResourceAttributes::default()
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                resource_attributes: Some(wish),
                user: user.username,
                groups: user.groups,
                uid: user.uid,
                extra: user.extra,
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let review = Api::<SubjectAccessReview>::all(self.client.clone())
            .create(&PostParams::default(), &review)
            .await?;
        Ok(review.status.is_some_and(|status| status.allowed))
    }

    /// The UID and the head of an environment of this organisation.
    fn environment(&self, org: &str, name: &str) -> Result<(String, i64), Refusal> {
        if org != self.installation.org {
            return Err(Refusal::new(
                StatusCode::NOT_FOUND,
                format!("the organisation here is {}", self.installation.org),
            ));
        }
        let known = self.environments.get(name);
        let known = known.ok_or_else(|| {
            Refusal::new(
                StatusCode::NOT_FOUND,
                format!("there is no Environment {name:?}"),
            )
        })?;
        let head = known.head.ok_or_else(|| {
            Refusal::new(StatusCode::NOT_FOUND, "the environment has no snapshot yet")
        })?;
        Ok((known.uid, head.0))
    }

    async fn entry(
        &self,
        environment: &str,
        uid: &str,
        index: i64,
    ) -> Result<Arc<EnvironmentSnapshotSpec>, Refusal> {
        let found = self.logbook.read(environment, uid, index).await?;
        found.ok_or_else(|| {
            Refusal::new(
                StatusCode::NOT_FOUND,
                format!("the log of {environment} has no snapshot {index}, or no longer"),
            )
        })
    }

    /// The number of the snapshot that an expression means.
    async fn find(
        &self,
        environment: &str,
        uid: &str,
        head: i64,
        expression: &str,
    ) -> Result<i64, Refusal> {
        let how =
            "a snapshot is named by its number, -1 (the newest), ~N or @{2026-11-24T10:00:00}";
        let number = match which(expression, Timestamp::now())
            .ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, how))?
        {
            Which::Number(number) => number,
            Which::Behind(behind) => head.saturating_sub(behind),
            Which::At(time) => {
                let lines = self.logbook.entries(environment, uid).await?;
                // The second of the object's creation is close; the entry's own time decides.
                let close = lines
                    .iter()
                    .filter(|line| line.created <= time)
                    .map(|line| line.index)
                    .max();
                close.unwrap_or(0)
            }
        };
        if (1..=head).contains(&number) {
            return Ok(number);
        }
        Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!("the newest snapshot of {environment} is {head}"),
        ))
    }

    async fn whole(
        &self,
        org: &str,
        environment: &str,
        expression: &str,
    ) -> Result<Value, Refusal> {
        let (uid, head) = self.environment(org, environment)?;
        let index = self.find(environment, &uid, head, expression).await?;
        let spec = self.entry(environment, &uid, index).await?;
        let next = if index < head {
            Some(self.entry(environment, &uid, index + 1).await?.time)
        } else {
            None
        };
        let replay = self.logbook.replay(environment, &uid, index).await?;
        let ledger = replay.and_then(|replay| {
            replay
                .ledger(Duration::ZERO, &mut Fleet::default())
                .map_err(|error| error.to_string())
        });
        let ledger = ledger.map_err(|why| {
            Refusal::new(
                StatusCode::NOT_FOUND,
                format!("the state at snapshot {index} can't be told: {why}"),
            )
        })?;
        Ok(readout::snapshot(&self.installation, &spec, &ledger, next))
    }
}

/// Which part of a list.
#[derive(Debug, Deserialize)]
struct Slice {
    page: Option<usize>,
    per_page: Option<usize>,
    reverse: Option<bool>,
}

impl Slice {
    fn of<T>(&self, mut all: Vec<T>) -> Result<(Vec<T>, HeaderMap), Refusal> {
        let (page, per_page) = (self.page.unwrap_or(1), self.per_page.unwrap_or(PER_PAGE.0));
        if page == 0 || per_page == 0 || per_page > PER_PAGE.1 {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                format!("page counts from 1, per_page from 1 to {}", PER_PAGE.1),
            ));
        }
        if self.reverse == Some(true) {
            all.reverse();
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-total-count", all.len().into());
        headers.insert("x-total-pages", all.len().div_ceil(per_page).into());
        let items = all
            .into_iter()
            .skip((page - 1).saturating_mul(per_page))
            .take(per_page)
            .collect();
        Ok((items, headers))
    }
}

async fn snapshots(
    State(archive): State<Archive>,
    Path((org, environment)): Path<(String, String)>,
    Query(slice): Query<Slice>,
) -> Result<Response, Refusal> {
    let (uid, _) = archive.environment(&org, &environment)?;
    let lines = archive.logbook.entries(&environment, &uid).await?;
    let entries: Vec<_> = lines.iter().rev().map(|line| line.index).collect();
    let newest = entries.first().copied();
    let (wanted, headers) = slice.of(entries)?;
    let now = Timestamp::now();
    let mut items = vec![];
    for index in wanted {
        let spec = archive.entry(&environment, &uid, index).await?;
        let next = if newest == Some(index) {
            None
        } else {
            Some(archive.entry(&environment, &uid, index + 1).await?.time)
        };
        items.push(readout::line(
            index,
            spec.time,
            next,
            spec.compliance.state,
            now,
        ));
    }
    Ok((headers, Json(items)).into_response())
}

async fn snapshot(
    State(archive): State<Archive>,
    Path((org, environment, expression)): Path<(String, String, String)>,
) -> Result<Json<Value>, Refusal> {
    archive
        .whole(&org, &environment, &expression)
        .await
        .map(Json)
}

async fn events(
    State(archive): State<Archive>,
    Path((org, environment)): Path<(String, String)>,
    Query(slice): Query<Slice>,
) -> Result<Response, Refusal> {
    let (uid, head) = archive.environment(&org, &environment)?;
    let lines = archive.logbook.entries(&environment, &uid).await?;
    let first = lines.first().map_or(head, |line| line.index);
    let mut all = vec![];
    for index in (first..=head).rev() {
        if let Some(spec) = archive.logbook.read(&environment, &uid, index).await? {
            all.extend(readout::events(&archive.installation, &spec));
        }
    }
    let (items, headers) = slice.of(all)?;
    Ok((headers, Json(items)).into_response())
}

/// The page of a snapshot: what changed, and what runs.
async fn page(
    State(archive): State<Archive>,
    Path((org, environment, expression)): Path<(String, String, String)>,
) -> Result<Response, Refusal> {
    let snapshot = archive.whole(&org, &environment, &expression).await?;
    let mut rows = String::new();
    for artifact in snapshot["artifacts"].as_array().into_iter().flatten() {
        let text = |value: &Value| escape(value.as_str().unwrap_or_default());
        let annotation = &artifact["annotation"];
        // Writing to a string does not fail.
        let _ = writeln!(
            rows,
            "<tr><td>{}</td><td><code>{}</code></td><td>{}</td><td>{} &rarr; {}</td></tr>",
            text(&artifact["name"]),
            text(&artifact["fingerprint"]),
            text(&annotation["type"]),
            annotation["was"],
            annotation["now"],
        );
    }
    let (environment, index) = (escape(&environment), &snapshot["index"]);
    let seconds = snapshot["timestamp"].as_f64().unwrap_or_default();
    #[allow(
        clippy::cast_possible_truncation,
        reason = "whole seconds are what is shown"
    )]
    let time = Timestamp::from_second(seconds as i64)
        .map(|time| time.to_string())
        .unwrap_or_default();
    let page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{environment} #{index}</title>\n\
         <style>body{{font:16px/1.5 system-ui,sans-serif;margin:2rem;max-width:70rem}}td,th{{text-align:left;padding:.2rem 1rem .2rem 0}}code{{font-size:.8em}}</style>\n\
         <h1>{environment} <small>snapshot #{index}</small></h1>\n<p>Recorded <time>{time}</time></p>\n\
         <table><tr><th>Image<th>Fingerprint<th>Change<th>Instances</tr>\n{rows}</table>\n</html>\n"
    );
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
    Ok(([(header::CONTENT_SECURITY_POLICY, policy)], Html(page)).into_response())
}

/// Text as HTML.
fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut html, c| {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c if c.is_control() => {}
            c => html.push(c),
        }
        html
    })
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn names_cannot_be_markup() {
        assert_eq!(
            escape("<script>alert('x' & \"y\")\u{7}</script>"),
            "&lt;script&gt;alert(&#39;x&#39; &amp; &quot;y&quot;)&lt;/script&gt;"
        );
    }
}
