#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Who may read: a request carries a Kubernetes token, and its user must have the right to get environmentsnapshots.

use std::{
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

use crate::{
    api::GROUP,
    metrics::Metrics,
    places::Places,
    rate::Rate,
    web::{
        client_address::ClientAddress,
        error_response::Refusal,
        request_limits::busy,
        token_cache::{Permission, Remembered, SharedRate, TokenCache, TokenHash},
    },
};

/// How long to wait for the API server's answer about a token, and for the turn to ask.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How many tokens are asked about at once.
const AT_ONCE: usize = 4;
/// How many of them may be sent from one address: the API server may take its time.
const AT_ONCE_OF_ADDRESS: usize = 2;
/// How many tokens are asked about in a second: those of readers, and all others.
const PER_SECOND: u32 = 20;
/// How many of the others may be sent from one address.
const OF_ADDRESS: u32 = 4;

/// The header in which a proxy that authenticates sends its secret, and the scheme that an answer without it names: every
/// answer 401 has to name one, and no client asks its user for something because of this.
const PROXY_SECRET: &str = "X-Shipbell-Proxy-Secret";

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
pub(crate) struct TokenChecker(Arc<Checker>);

struct Checker {
    client: Client,
    /// The audience that a token has to be issued for.
    audience: String,
    /// Whether tokens for the API server are accepted, too.
    accept_cluster_tokens: bool,
    remembered: Mutex<TokenCache>,
    places: Places<ClientAddress>,
    of_readers: Mutex<Rate>,
    of_others: Mutex<SharedRate>,
    metrics: Arc<Metrics>,
}

/// Why it is not known what a token permits.
enum NotChecked {
    /// Too many tokens are being checked.
    Busy,
    /// The API server did not say.
    Failed(String),
}

impl Access {
    /// For requests that a proxy has authenticated. Without its secret this is everybody, of which the configuration warns.
    pub(crate) fn behind_proxy(secret: Option<&SecretString>) -> Self {
        match secret {
            Some(secret) => Self::Proxy(Sha256::digest(secret.expose_secret()).into()),
            None => Self::Everybody,
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
                _ => unauthorized(
                    format!(
                        "this address is only for the proxy before it: the header {PROXY_SECRET} is missing or wrong"
                    ),
                    PROXY_SECRET,
                ),
            };
        }
        Access::ByToken(checker) => checker,
    };
    let Some(token) = bearer_token(request.headers()) else {
        let audience = &checker.0.audience;
        let why = format!(
            "a Kubernetes token is needed: Authorization: Bearer $(kubectl create token NAME --audience={audience})"
        );
        return unauthorized(why, "Bearer");
    };
    let from = ClientAddress::of_request(request.extensions());
    match checker.permission(token, from).await {
        Ok(Permission::Granted) => next.run(request).await,
        Ok(Permission::Denied) => Refusal::new(
            StatusCode::FORBIDDEN,
            "the token's user may not get environmentsnapshots.shipbell.dev",
        )
        .into_response(),
        Ok(Permission::Invalid) => {
            let audience = &checker.0.audience;
            let why = format!(
                "the token is not valid, or not for the audience {audience}: kubectl create token NAME --audience={audience}"
            );
            unauthorized(why, "Bearer error=\"invalid_token\"")
        }
        Err(NotChecked::Busy) => busy("too many tokens are being checked; try again"),
        Err(NotChecked::Failed(error)) => {
            warn!(error, "cannot check a token");
            Refusal::new(
                StatusCode::BAD_GATEWAY,
                "the API server did not check the token; try again",
            )
            .into_response()
        }
    }
}

fn unauthorized(why: String, challenge: &'static str) -> Response {
    let mut refusal = Refusal::new(StatusCode::UNAUTHORIZED, why).into_response();
    refusal.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static(challenge),
    );
    refusal
}

pub(crate) fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("Bearer") && !token.is_empty()).then_some(token)
}

impl TokenChecker {
    /// `audience`: whom a token has to be issued for. `accept_cluster_tokens`: or for the API server.
    pub(crate) fn new(
        client: Client,
        audience: &str,
        accept_cluster_tokens: bool,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self(Arc::new(Checker {
            client,
            audience: audience.to_owned(),
            accept_cluster_tokens,
            remembered: Mutex::default(),
            places: Places::new((AT_ONCE_OF_ADDRESS, AT_ONCE)),
            of_readers: Mutex::new(Rate::per_second(PER_SECOND)),
            of_others: Mutex::new(SharedRate::per_second((OF_ADDRESS, PER_SECOND))),
            metrics,
        }))
    }

    async fn permission(&self, token: &str, from: ClientAddress) -> Result<Permission, NotChecked> {
        let checker = &self.0;
        let hash: TokenHash = Sha256::digest(token).into();
        let remembered = || checker.remembered.lock().get(&hash, Instant::now());
        if let Remembered::Answer(permission) = remembered() {
            return Ok(permission);
        }
        let Ok(Ok(_place)) = timeout(TIMEOUT, checker.places.take(from)).await else {
            checker.metrics.token_reviewed("limited");
            return Err(NotChecked::Busy);
        };
        // The same token may have been asked about while this request waited.
        let may_ask = match remembered() {
            Remembered::Answer(permission) => return Ok(permission),
            Remembered::Reader => checker.of_readers.lock().take(Instant::now()),
            Remembered::Nothing => checker.of_others.lock().take(from, Instant::now()),
        };
        if !may_ask {
            checker.metrics.token_reviewed("limited");
            return Err(NotChecked::Busy);
        }
        let asked = timeout(TIMEOUT, checker.ask(token)).await;
        let asked = asked.map_err(|_| "no answer".to_owned());
        let asked = asked.and_then(|asked| asked.map_err(|error| error.to_string()));
        let permission = asked.map_err(|why| {
            checker.metrics.token_reviewed("failed");
            NotChecked::Failed(why)
        })?;
        checker.metrics.token_reviewed(match permission {
            Permission::Granted => "granted",
            Permission::Denied => "denied",
            Permission::Invalid => "invalid",
        });
        let mut remembered = checker.remembered.lock();
        remembered.put(hash, permission, Instant::now());
        Ok(permission)
    }
}

impl Checker {
    async fn ask(&self, token: &str) -> kube::Result<Permission> {
        let mut user = self.user(token, Some(&self.audience)).await?;
        if user.is_none() && self.accept_cluster_tokens {
            user = self.user(token, None).await?;
        }
        let Some(user) = user else {
            return Ok(Permission::Invalid);
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

    /// The user whom a token identifies; `None` if it is not valid for this audience. Without one it is the API server's.
    async fn user(&self, token: &str, audience: Option<&str>) -> kube::Result<Option<UserInfo>> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: audience.map(|audience| vec![audience.to_owned()]),
            },
            ..TokenReview::default()
        };
        let review = Api::<TokenReview>::all(self.client.clone())
            .create(&PostParams::default(), &review)
            .await?;
        let status = review.status.unwrap_or_default();
        // An API server that does not know audiences says nothing of them.
        let is_for_us = audience.is_none_or(|audience| {
            let audiences = status.audiences.iter().flatten();
            audiences.into_iter().any(|it| it == audience)
        });
        let valid = status.authenticated == Some(true) && is_for_us;
        Ok(status.user.filter(|_| valid))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::{
        Json, Router,
        body::{Body, to_bytes},
        routing::post,
    };
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use k8s_openapi::api::{
        authentication::v1::TokenReviewStatus, authorization::v1::SubjectAccessReviewStatus,
    };
    use tokio::time::sleep;

    use super::*;
    use crate::{
        simulation::testing::silent_api_server,
        web::{read_api, testing::lookup},
    };

    /// The read API of an installation that has recorded nothing.
    fn api(access: Access) -> TowerToHyperService<Router> {
        let client = Client::new(Router::new(), "default");
        TowerToHyperService::new(read_api::router(lookup(client, None), access))
    }

    /// The answer to a request with these headers from an address of its own. Whatever it is, it may not be stored.
    async fn ask(
        api: &TowerToHyperService<Router>,
        from: u8,
        headers: &[(&'static str, &str)],
    ) -> (u16, HeaderMap, String) {
        let mut request = Request::get("/api/v2/environments/acme");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).unwrap();
        let from = ClientAddress::of([10, 0, 0, from].into());
        request.extensions_mut().insert(from);
        let (parts, body) = api.call(request).await.unwrap().into_parts();
        assert_eq!(parts.headers[header::CACHE_CONTROL], "no-store");
        let body = to_bytes(body, 1 << 20).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        (parts.status.as_u16(), parts.headers, body)
    }

    /// How an answer says that one has to authenticate.
    fn challenge(headers: &HeaderMap) -> Option<&str> {
        let challenge = headers.get(header::WWW_AUTHENTICATE)?;
        Some(challenge.to_str().unwrap())
    }

    #[tokio::test]
    async fn behind_a_proxy_with_a_secret_only_requests_with_it_pass() {
        let secret = SecretString::from("0123456789abcdef");
        let guarded = api(Access::behind_proxy(Some(&secret)));
        let proxy = "X-Shipbell-Proxy-Secret";
        for (header, passes) in [
            (None, false),
            (Some((proxy, "")), false),
            (Some((proxy, "0123456789abcdeF")), false),
            (Some((proxy, "0123456789abcde")), false),
            (Some((proxy, "0123456789abcdef0")), false),
            (Some(("Authorization", "Bearer 0123456789abcdef")), false),
            (Some((proxy, "0123456789abcdef")), true),
        ] {
            let headers: Vec<_> = header.into_iter().collect();
            let (status, answer, body) = ask(&guarded, 1, &headers).await;
            if passes {
                assert_eq!((status, challenge(&answer)), (200, None), "{header:?}");
                continue;
            }
            assert_eq!((status, challenge(&answer)), (401, Some(proxy)));
            assert!(body.contains("is missing or wrong"), "{header:?}: {body}");
            assert!(!body.contains("0123456789abcdef"), "{body}");
        }
        let open = api(Access::behind_proxy(None));
        assert_eq!(ask(&open, 1, &[]).await.0, 200);
    }

    /// Who a token identifies.
    fn user(name: &str) -> UserInfo {
        let extra = [("from".to_owned(), vec![name.to_owned()])];
        UserInfo {
            username: Some(name.to_owned()),
            groups: Some(vec![format!("{name}s")]),
            uid: Some(format!("uid-of-{name}")),
            extra: Some(extra.into()),
        }
    }

    /// An API server that counts the TokenReviews. A token is `AUDIENCE/USER`; `reader` may read, and `cluster` is its own
    /// audience. It says nothing of the audience `silent`, as one does that knows none, and fails for `broken`.
    fn reviews(asked: Arc<AtomicUsize>) -> Router {
        let token = async move |Json(mut review): Json<TokenReview>| {
            asked.fetch_add(1, Ordering::Relaxed);
            let token = review.spec.token.split_once('/');
            let wanted = review.spec.audiences.as_deref();
            let status = match token {
                Some(("broken", _)) => return Err(StatusCode::INTERNAL_SERVER_ERROR),
                Some(("silent", name)) if wanted.is_some() => TokenReviewStatus {
                    authenticated: Some(true),
                    user: Some(user(name)),
                    ..TokenReviewStatus::default()
                },
                Some((audience, name))
                    if wanted.map_or(audience == "cluster", |all| all == [audience]) =>
                {
                    TokenReviewStatus {
                        authenticated: Some(true),
                        audiences: Some(vec![audience.to_owned()]),
                        user: Some(user(name)),
                        ..TokenReviewStatus::default()
                    }
                }
                _ => TokenReviewStatus {
                    authenticated: Some(false),
                    user: Some(UserInfo::default()),
                    ..TokenReviewStatus::default()
                },
            };
            review.status = Some(status);
            Ok((StatusCode::CREATED, Json(review)))
        };
        let access = async |Json(mut review): Json<SubjectAccessReview>| {
            let spec = review.spec.clone();
            let who = UserInfo {
                username: spec.user,
                groups: spec.groups,
                uid: spec.uid,
                extra: spec.extra,
            };
            let right = ResourceAttributes {
                group: Some("shipbell.dev".to_owned()),
                resource: Some("environmentsnapshots".to_owned()),
                verb: Some("get".to_owned()),
                ..ResourceAttributes::default()
            };
            review.status = Some(SubjectAccessReviewStatus {
                allowed: who == user("reader") && spec.resource_attributes == Some(right),
                ..SubjectAccessReviewStatus::default()
            });
            (StatusCode::CREATED, Json(review))
        };
        Router::new()
            .route("/apis/authentication.k8s.io/v1/tokenreviews", post(token))
            .route(
                "/apis/authorization.k8s.io/v1/subjectaccessreviews",
                post(access),
            )
    }

    #[tokio::test]
    async fn a_token_has_to_be_for_the_audience_and_of_a_user_with_the_right() {
        for accept_cluster_tokens in [false, true] {
            let asked = Arc::new(AtomicUsize::new(0));
            let client = Client::new(reviews(asked.clone()), "default");
            let metrics = Arc::new(Metrics::new());
            let checker = TokenChecker::new(client, "links", accept_cluster_tokens, metrics);
            let api = api(Access::ByToken(checker));

            let (status, headers, body) = ask(&api, 1, &[]).await;
            assert_eq!((status, challenge(&headers)), (401, Some("Bearer")));
            assert!(body.contains("--audience=links"), "{body}");

            let of_cluster = |then| if accept_cluster_tokens { then } else { 401 };
            for (number, (token, want)) in (2..).zip([
                ("nonsense", 401),
                ("other/reader", 401),
                ("silent/reader", 401),
                ("cluster/reader", of_cluster(200)),
                ("cluster/stranger", of_cluster(403)),
                ("links/stranger", 403),
                ("links/reader", 200),
                ("broken/reader", 502),
            ]) {
                let bearer = format!("Bearer {token}");
                let bearer = [("Authorization", bearer.as_str())];
                let (status, headers, body) = ask(&api, number, &bearer).await;
                let given = format!("{token}, {accept_cluster_tokens}: {body}");
                assert_eq!(status, want, "{given}");
                let invalid = (want == 401).then_some("Bearer error=\"invalid_token\"");
                assert_eq!(challenge(&headers), invalid, "{given}");
                let says = match want {
                    401 => "not for the audience links",
                    403 => "may not get environmentsnapshots.shipbell.dev",
                    502 => "the API server did not check the token; try again",
                    _ => "",
                };
                assert!(body.contains(says), "{given}");
                // An answer is remembered, and a failure is not.
                let before = asked.load(Ordering::Relaxed);
                assert_eq!(ask(&api, number, &bearer).await.0, want, "{given}");
                let again = asked.load(Ordering::Relaxed) > before;
                assert_eq!(again, want == 502, "{given}");
            }
        }
    }

    #[tokio::test]
    async fn an_address_that_sends_too_many_new_tokens_is_told_when_to_try_again() {
        let client = Client::new(reviews(Arc::default()), "default");
        let checker = TokenChecker::new(client, "links", false, Arc::new(Metrics::new()));
        let api = api(Access::ByToken(checker));
        let mut statuses = vec![];
        for number in 0..100 {
            let bearer = format!("Bearer other/{number}");
            let answer = ask(&api, 1, &[("Authorization", &bearer)]).await;
            statuses.push(answer.0);
            if answer.0 == 503 {
                assert_eq!(answer.1[header::RETRY_AFTER], "2");
                break;
            }
        }
        let (refused, asked) = statuses.split_last().unwrap();
        assert_eq!(*refused, 503);
        assert!(asked.len() >= OF_ADDRESS as usize);
        assert!(asked.iter().all(|status| *status == 401), "{asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_at_most_half_of_the_turns_to_ask_about_tokens_when_answers_are_slow() {
        let (hangs, asked) = silent_api_server();
        let client = Client::new(hangs, "default");
        let checker = TokenChecker::new(client, "shipbell", false, Arc::new(Metrics::new()));
        let ask = async |address: &str, number: usize| {
            let from = ClientAddress::of(address.parse().unwrap());
            for token in 0..number {
                let (checker, token) = (checker.clone(), format!("{address} {token}"));
                tokio::spawn(async move { checker.permission(&token, from).await.is_ok() });
            }
            sleep(TIMEOUT / 10).await;
            asked.load(Ordering::Relaxed)
        };
        assert_eq!(ask("10.0.0.1", 3 * AT_ONCE).await, AT_ONCE_OF_ADDRESS);
        assert_eq!(ask("10.0.0.2", 1).await, AT_ONCE_OF_ADDRESS + 1);
    }

    #[test]
    fn a_bearer_token_is_read_from_its_header_and_from_nothing_else() {
        for (value, token) in [
            ("Bearer abc", Some("abc")),
            ("Bearer  abc ", Some("abc")),
            ("bearer abc", Some("abc")),
            ("Bearer ", None),
            ("Basic abc", None),
            ("Bearerabc", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            assert_eq!(bearer_token(&headers), token, "{value:?}");
        }
        assert_eq!(bearer_token(&HeaderMap::new()), None);
    }
}
