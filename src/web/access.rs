#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Who may read: a request carries a Kubernetes token, and its user must have the right to get environmentsnapshots.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use tracing::warn;

use crate::{api::GROUP, web::error_response::Refusal};

/// How long the answer about a token is used before it is asked again.
const REMEMBERED: Duration = Duration::from_secs(60);
/// At most this many tokens are remembered.
const TOKENS: usize = 1_024;
/// How long to wait for the API server's answer about a token.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The header in which a proxy that authenticates sends its secret.
const PROXY_SECRET: &str = "x-shipbell-proxy-secret";

/// Decides who may read.
#[derive(Clone)]
pub(crate) enum Access {
    /// Everybody who reaches the port: a proxy has authenticated the request.
    Everybody,
    /// Requests with the proxy's secret, of which this is the hash: comparing hashes takes as long whatever is given.
    Proxy([u8; 32]),
    /// Users with the right to get environmentsnapshots.
    ByToken(TokenChecker),
}

/// Asks the API server about tokens.
#[derive(Clone)]
pub(crate) struct TokenChecker {
    client: Client,
    remembered: Arc<Mutex<Remembered>>,
}

/// The permissions of tokens by their hash, and when they were asked for.
type Remembered = BTreeMap<[u8; 32], (Permission, Instant)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Permission {
    Granted,
    Denied,
}

impl Access {
    /// For requests that a proxy has authenticated.
    pub(crate) fn behind_proxy(secret: Option<&SecretString>) -> Self {
        match secret {
            Some(secret) => Self::Proxy(Sha256::digest(secret.expose_secret()).into()),
            None => {
                warn!(
                    "--api-behind-authenticating-proxy without --api-proxy-secret: whoever can connect to the read API, past the proxy too, reads everything; set the secret (chart value api.proxySecret), or let only the proxy connect (networkPolicy.apiFrom)"
                );
                Self::Everybody
            }
        }
    }
}

/// Lets requests pass whose user may read.
pub(crate) async fn check(State(access): State<Access>, request: Request, next: Next) -> Response {
    let checker = match access {
        Access::Everybody => return next.run(request).await,
        Access::Proxy(secret) => {
            let given = request.headers().get(PROXY_SECRET).map(Sha256::digest);
            return match given {
                Some(given) if <[u8; 32]>::from(given) == secret => next.run(request).await,
                _ => Refusal::new(
                    StatusCode::UNAUTHORIZED,
                    "this address is only for the proxy before it: the header X-Shipbell-Proxy-Secret is missing or wrong",
                )
                .into_response(),
            };
        }
        Access::ByToken(checker) => checker,
    };
    let Some(token) = bearer_token(request.headers()) else {
        let message =
            "a Kubernetes token is needed: Authorization: Bearer $(kubectl create token NAME)";
        let mut refusal = Refusal::new(StatusCode::UNAUTHORIZED, message).into_response();
        refusal
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return refusal;
    };
    match checker.permission(token).await {
        Ok(Permission::Granted) => next.run(request).await,
        Ok(Permission::Denied) => Refusal::new(
            StatusCode::FORBIDDEN,
            "the token is not valid, or its user may not get environmentsnapshots.shipbell.dev",
        )
        .into_response(),
        Err(error) => {
            warn!(error, "cannot check a token");
            Refusal::new(
                StatusCode::BAD_GATEWAY,
                "the API server did not check the token; try again",
            )
            .into_response()
        }
    }
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let token = value.strip_prefix("Bearer ")?.trim();
    (!token.is_empty()).then_some(token)
}

impl TokenChecker {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            remembered: Arc::default(),
        }
    }

    async fn permission(&self, token: &str) -> Result<Permission, String> {
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some((permission, at)) = self.remembered.lock().get(&key)
            && at.elapsed() < REMEMBERED
        {
            return Ok(*permission);
        }
        let asked = timeout(TIMEOUT, self.ask(token)).await;
        let permission = asked
            .map_err(|_| "no answer".to_owned())?
            .map_err(|error| error.to_string())?;
        let mut remembered = self.remembered.lock();
        remembered.retain(|_, (_, at)| at.elapsed() < REMEMBERED);
        if remembered.len() < TOKENS {
            remembered.insert(key, (permission, Instant::now()));
        }
        Ok(permission)
    }

    async fn ask(&self, token: &str) -> kube::Result<Permission> {
        let Some(user) = self.user(token).await? else {
            return Ok(Permission::Denied);
        };
        let right = ResourceAttributes {
            group: Some(GROUP.to_owned()),
            resource: Some("environmentsnapshots".to_owned()),
            verb: Some("get".to_owned()),
            ..ResourceAttributes::default()
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                resource_attributes: Some(right),
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
        Ok(match review.status {
            Some(status) if status.allowed => Permission::Granted,
            _ => Permission::Denied,
        })
    }

    /// The user whom a token identifies; `None` if it is not valid.
    async fn user(&self, token: &str) -> kube::Result<Option<UserInfo>> {
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
        Ok(status.user.filter(|_| status.authenticated == Some(true)))
    }
}
