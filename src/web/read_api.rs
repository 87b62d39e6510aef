#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! The read API of the log and of what is known of images, in the path forms and shapes of Kosli's, so that the links in
//! payloads resolve: as JSON, and as pages for people.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use tracing::warn;

use crate::{
    api::EnvironmentSnapshotSpec,
    cluster::{fleet::Fleet, image::Fingerprint},
    message::installation::Installation,
    snapshot::{
        environments::{EnvironmentInfo, Environments},
        log::{LogError, SnapshotLog},
        shared::SharedState,
        state::ClusterState,
    },
    web::{
        page,
        views::{
            self, SnapshotQuery,
            artifact::{ArtifactAnswer, ArtifactQuery, Wanted},
            which,
        },
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
/// Snapshots that are searched for what no object tells any more, over all environments, the newest first.
const SEARCHED: i64 = 2_000;
/// So many of them are asked for at once.
const AT_ONCE: usize = 8;

/// What the read API is made from.
#[derive(Clone)]
pub struct ReadApi {
    /// For asking what a token may do.
    pub client: Client,
    /// The world.
    pub hub: Arc<SharedState>,
    /// The log.
    pub logbook: SnapshotLog,
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
pub fn router(archive: ReadApi) -> Router {
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
            get(artifact),
        )
        .route("/{org}/{flow}/{fingerprint}", get(artifact_page))
        .route("/api/v2/deployments/{org}/{flow}/{number}", get(deployment))
        .route(
            "/{org}/flows/{flow}/deployments/{number}",
            get(deployment_page),
        )
        .route("/api/v2/approvals/{org}/{flow}/{number}", get(approval))
        .route("/{org}/flows/{flow}/approvals/{number}", get(approval_page))
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
async fn guard(State(archive): State<ReadApi>, request: Request, next: Next) -> Response {
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

impl ReadApi {
    async fn may_read(&self, token: &str) -> Result<bool, String> {
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some((may, at)) = self.tokens.lock().get(&key)
            && at.elapsed() < REMEMBERED
        {
            return Ok(*may);
        }
        let may = timeout(TIMEOUT, self.ask(token))
            .await
            .map_err(|_| "no answer".to_owned())?;
        let may = may.map_err(|error| error.to_string())?;
        let mut tokens = self.tokens.lock();
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

    fn is_here(&self, org: &str) -> Result<(), Refusal> {
        if org == self.installation.org {
            return Ok(());
        }
        Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!("the organisation here is {}", self.installation.org),
        ))
    }

    fn known(&self, org: &str, name: &str) -> Result<EnvironmentInfo, Refusal> {
        self.is_here(org)?;
        self.environments.get(name).ok_or_else(|| {
            Refusal::new(
                StatusCode::NOT_FOUND,
                format!("there is no Environment {name:?}"),
            )
        })
    }

    fn describe(&self, world: &ClusterState, name: &str) -> Value {
        views::environment(&self.installation, name, world.summary(name).as_ref())
    }

    fn allow_list(&self, environment: Option<&str>) -> Vec<Value> {
        self.hub
            .with(|world, _| views::allow_list(world.evidence(), environment, Timestamp::now()))
    }

    /// What is known of an artifact, a deployment or a review of a flow. When what said it is gone, and with it what the
    /// newest state of the environments tells, the logs still hold what was told once.
    async fn answer(
        &self,
        kind: PathKind,
        Path((org, flow, name)): OfFlow,
    ) -> Result<Value, Refusal> {
        self.is_here(&org)?;
        let wanted = wanted(kind, &name)?;
        let question = ArtifactQuery { flow, wanted };
        let installation = &self.installation;
        if let Some(answer) = self
            .hub
            .with(|world, _| question.answer(installation, world))
        {
            return Ok(answer);
        }
        let known = self.environments.all();
        let depth = (SEARCHED / i64::try_from(known.len()).unwrap_or(SEARCHED).max(1)).max(1);
        for (environment, known) in known.iter() {
            let Some((head, _)) = known.head else {
                continue;
            };
            let numbers = (1..=head).rev().take(usize::try_from(depth).unwrap_or(1));
            let entries = stream::iter(numbers)
                .map(|index| self.logbook.read_uncached(environment, &known.uid, index))
                .buffered(AT_ONCE);
            let mut entries = pin!(entries);
            while let Some(Some(spec)) = entries.try_next().await? {
                let mut told = ArtifactAnswer::in_entry(&spec);
                if let Some(told) = told.find(|told| question.is_answered_by(told)) {
                    let answer = |world: &mut ClusterState, _| {
                        question.answer_by(installation, world, &told)
                    };
                    return Ok(self.hub.with(answer));
                }
            }
        }
        let what = match kind {
            PathKind::Artifact => format!("artifact {name}"),
            PathKind::Deployment => format!("deployment {name}"),
            PathKind::Approval => format!("approval {name}"),
        };
        Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!(
                "nothing is known of {what} of flow {}: no object in a namespace that an Environment trusts tells of it, \
                 nor do the newest {depth} snapshots of each environment",
                question.flow
            ),
        ))
    }

    /// The UID and the head of an environment of this organisation.
    fn environment(&self, org: &str, name: &str) -> Result<(String, i64), Refusal> {
        let known = self.known(org, name)?;
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
            SnapshotQuery::Number(number) => number,
            SnapshotQuery::Behind(behind) => head.saturating_sub(behind),
            SnapshotQuery::At(time) => {
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
        Ok(views::snapshot(&self.installation, &spec, &ledger, next))
    }
}

/// SnapshotQuery part of a list.
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
    State(archive): State<ReadApi>,
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
        items.push(views::line(
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
    State(archive): State<ReadApi>,
    Path((org, environment, expression)): Path<(String, String, String)>,
) -> Result<Json<Value>, Refusal> {
    archive
        .whole(&org, &environment, &expression)
        .await
        .map(Json)
}

async fn events(
    State(archive): State<ReadApi>,
    Path((org, environment)): Path<(String, String)>,
    Query(slice): Query<Slice>,
) -> Result<Response, Refusal> {
    let (uid, head) = archive.environment(&org, &environment)?;
    let lines = archive.logbook.entries(&environment, &uid).await?;
    let first = lines.first().map_or(head, |line| line.index);
    let mut all = vec![];
    for index in (first..=head).rev() {
        if let Some(spec) = archive.logbook.read(&environment, &uid, index).await? {
            all.extend(views::events(&archive.installation, &spec));
        }
    }
    let (items, headers) = slice.of(all)?;
    Ok((headers, Json(items)).into_response())
}

async fn snapshot_page(
    State(archive): State<ReadApi>,
    Path((org, environment, expression)): Path<(String, String, String)>,
) -> Result<Response, Refusal> {
    let (uid, head) = archive.environment(&org, &environment)?;
    let index = archive.find(&environment, &uid, head, &expression).await?;
    let snapshot = archive
        .whole(&org, &environment, &index.to_string())
        .await?;
    let spec = archive.entry(&environment, &uid, index).await?;
    let events = views::events(&archive.installation, &spec);
    Ok(page::snapshot(&environment, &snapshot, &events))
}

async fn environments(
    State(archive): State<ReadApi>,
    Path(org): Path<String>,
) -> Result<Json<Vec<Value>>, Refusal> {
    archive.is_here(&org)?;
    let known = archive.environments.all();
    let all = archive.hub.with(|world, _| {
        let one = |name: &String| archive.describe(world, name);
        known.keys().map(one).collect()
    });
    Ok(Json(all))
}

async fn environment(
    State(archive): State<ReadApi>,
    Path((org, environment)): Path<(String, String)>,
) -> Result<Json<Value>, Refusal> {
    archive.known(&org, &environment)?;
    let described = |world: &mut ClusterState, _| archive.describe(world, &environment);
    Ok(Json(archive.hub.with(described)))
}

async fn environment_page(
    State(archive): State<ReadApi>,
    Path((org, environment)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    if Fingerprint::from_hex(&environment).is_some() {
        // No name of an Environment is that long: it is the page of an artifact whose flow is called like this path.
        let flow = "environments".to_owned();
        return artifact_page(State(archive), Path((org, flow, environment))).await;
    }
    archive.known(&org, &environment)?;
    let (described, allowed) = archive.hub.with(|world, _| {
        let allowed = views::allow_list(world.evidence(), Some(&environment), Timestamp::now());
        (archive.describe(world, &environment), allowed)
    });
    Ok(page::environment(&described, &allowed))
}

async fn allow_lists(
    State(archive): State<ReadApi>,
    Path(org): Path<String>,
) -> Result<Json<Vec<Value>>, Refusal> {
    archive.is_here(&org)?;
    Ok(Json(archive.allow_list(None)))
}

async fn allow_list(
    State(archive): State<ReadApi>,
    Path((org, environment)): Path<(String, String)>,
) -> Result<Json<Vec<Value>>, Refusal> {
    archive.known(&org, &environment)?;
    Ok(Json(archive.allow_list(Some(&environment))))
}

/// What is asked for of a flow, by the kind of thing and what the path calls it.
fn wanted(kind: PathKind, text: &str) -> Result<Wanted, Refusal> {
    let number = || text.parse().ok().filter(|number| *number > 0);
    let (wanted, how) = match kind {
        PathKind::Artifact => (
            Fingerprint::from_hex(text).map(Wanted::Artifact),
            "an artifact is named by its SHA-256 digest: 64 lower-case hex digits",
        ),
        PathKind::Deployment => (
            number().map(Wanted::Deployment),
            "a deployment is named by its number",
        ),
        PathKind::Approval => (
            number().map(Wanted::Approval),
            "an approval is named by its number",
        ),
    };
    wanted.ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, how))
}

/// What a flow has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PathKind {
    Artifact,
    Deployment,
    Approval,
}

type OfFlow = Path<(String, String, String)>;

async fn artifact(State(archive): State<ReadApi>, path: OfFlow) -> Result<Json<Value>, Refusal> {
    archive.answer(PathKind::Artifact, path).await.map(Json)
}

async fn artifact_page(State(archive): State<ReadApi>, path: OfFlow) -> Result<Response, Refusal> {
    let found = archive.answer(PathKind::Artifact, path).await?;
    Ok(page::artifact(&found))
}

async fn deployment(State(archive): State<ReadApi>, path: OfFlow) -> Result<Json<Value>, Refusal> {
    archive.answer(PathKind::Deployment, path).await.map(Json)
}

async fn deployment_page(
    State(archive): State<ReadApi>,
    path: OfFlow,
) -> Result<Response, Refusal> {
    let found = archive.answer(PathKind::Deployment, path).await?;
    Ok(page::deployment(&found))
}

async fn approval(State(archive): State<ReadApi>, path: OfFlow) -> Result<Json<Value>, Refusal> {
    archive.answer(PathKind::Approval, path).await.map(Json)
}

async fn approval_page(State(archive): State<ReadApi>, path: OfFlow) -> Result<Response, Refusal> {
    let found = archive.answer(PathKind::Approval, path).await?;
    Ok(page::approval(&found))
}
