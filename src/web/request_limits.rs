#![expect(clippy::disallowed_methods, reason = "waits for a limited time")]

//! Bounds what requests take up together: how many are worked on at once, for how long, and how many bytes of large answers
//! are kept until they are sent. A client's address gets at most a part of it, so that clients at other addresses are served
//! however slowly it reads.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
};
use hyper::body::Body as _;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    places::Places,
    web::{client_address::ClientAddress, error_response::Refusal, held_body::hold},
};

/// How many requests to the read API are worked on at once.
const READ_API: usize = 16;
/// How many of them may be of one address.
const READ_API_OF_ADDRESS: usize = 8;
/// How long one waits until it is worked on.
const READ_API_QUEUE: Duration = Duration::from_secs(5);
/// How long it may take.
const READ_API_DEADLINE: Duration = Duration::from_secs(20);
/// How many requests to `/metrics` are worked on at once.
const METRICS: usize = 4;
/// How many of them may be of one address.
const METRICS_OF_ADDRESS: usize = 2;
/// How long one waits, and how long it may take.
const METRICS_DEADLINE: Duration = Duration::from_secs(5);
/// At most how many bytes large answers take together that are made and not sent yet. A larger one is sent alone.
const LARGE_ANSWERS: u32 = 16 << 20;
/// How many requests for large answers may have a place of the read API at once: the others are for what is small.
const LARGE: usize = 8;
/// How many of them may be of one address.
const LARGE_OF_ADDRESS: usize = 1;
/// How many of them may be of the address of a proxy, which is that of all readers.
const LARGE_BEHIND_PROXY: usize = 4;
/// How long one waits for that.
const LARGE_QUEUE: Duration = Duration::from_secs(5);

/// How many requests are worked on at once, and how long they may take.
#[derive(Clone, Debug)]
pub(crate) struct RequestLimits {
    places: Places<ClientAddress>,
    /// How long a request waits until it is worked on.
    queue: Duration,
    /// How long it may be worked on.
    deadline: Duration,
}

impl RequestLimits {
    /// `at_once`: of one address, and of all.
    fn new(at_once: (usize, usize), queue: Duration, deadline: Duration) -> Self {
        Self {
            places: Places::new(at_once),
            queue,
            deadline,
        }
    }

    /// For the read API: an answer may hold a large snapshot. `behind_proxy`: all readers have one address.
    pub(crate) fn of_read_api(behind_proxy: bool) -> Self {
        let of_address = if behind_proxy {
            READ_API
        } else {
            READ_API_OF_ADDRESS
        };
        let at_once = (of_address, READ_API);
        Self::new(at_once, READ_API_QUEUE, READ_API_DEADLINE)
    }

    /// For the read API's large answers, beside those of [`Self::of_read_api`]. Goes outside of them: who waits here has no
    /// place there, so that an address that waits for its own large answers takes no place of others.
    pub(crate) fn of_large_answers(behind_proxy: bool) -> Self {
        let of_address = if behind_proxy {
            LARGE_BEHIND_PROXY
        } else {
            LARGE_OF_ADDRESS
        };
        let inside = READ_API_QUEUE.saturating_add(READ_API_DEADLINE);
        Self::new((of_address, LARGE), LARGE_QUEUE, inside)
    }

    /// For `/metrics`, whose text grows with the number of environments.
    pub(crate) fn of_metrics() -> Self {
        let at_once = (METRICS_OF_ADDRESS, METRICS);
        Self::new(at_once, METRICS_DEADLINE, METRICS_DEADLINE)
    }
}

/// Lets so many requests pass at once. A request counts until its answer is sent.
pub(crate) async fn limit(
    State(limits): State<RequestLimits>,
    request: Request,
    next: Next,
) -> Response {
    let from = ClientAddress::of_request(request.extensions());
    let place = limits.places.take(from);
    let Ok(Ok(place)) = timeout(limits.queue, place).await else {
        return busy("too many requests at once; try again");
    };
    match timeout(limits.deadline, next.run(request)).await {
        Ok(response) => hold(response, place),
        Err(_) => {
            let seconds = limits.deadline.as_secs();
            busy(&format!(
                "the request took longer than {seconds} s, or waited so long until large answers were sent to others; try again, \
                 or ask for less"
            ))
        }
    }
}

/// Bounds the memory for answers that may be large. One at a time is made, and it is made only when there is room for the one
/// before.
#[derive(Clone, Debug)]
pub(crate) struct LargeAnswers {
    in_work: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    most: u32,
}

impl LargeAnswers {
    pub(crate) fn new() -> Self {
        Self::within(LARGE_ANSWERS)
    }

    fn within(most: u32) -> Self {
        Self {
            in_work: Arc::new(Semaphore::new(1)),
            bytes: Arc::new(Semaphore::new(most as usize)),
            most,
        }
    }
}

/// Lets the requests for large answers pass one after the other. Goes inside of [`limit`], whose deadline is also for the
/// time that they wait.
async fn limit_large(State(limits): State<LargeAnswers>, request: Request, next: Next) -> Response {
    let Ok(in_work) = limits.in_work.acquire_owned().await else {
        return busy("the server stops");
    };
    let response = next.run(request).await;
    let size = response.body().size_hint().lower();
    let size = u32::try_from(size).unwrap_or(u32::MAX).min(limits.most);
    let Ok(bytes) = limits.bytes.acquire_many_owned(size).await else {
        return busy("the server stops");
    };
    drop(in_work);
    hold(response, bytes)
}

/// The paths of the read API under their limits. `large`: those whose answers may be large. `behind_proxy`: all readers have
/// one address.
pub(crate) fn limit_read_api<S>(small: Router<S>, large: Router<S>, behind_proxy: bool) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    limit_paths(small, large, behind_proxy, LargeAnswers::new())
}

fn limit_paths<S>(
    small: Router<S>,
    large: Router<S>,
    behind_proxy: bool,
    answers: LargeAnswers,
) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let places = from_fn_with_state(RequestLimits::of_read_api(behind_proxy), limit);
    let large_places = from_fn_with_state(RequestLimits::of_large_answers(behind_proxy), limit);
    let large = large
        .layer(from_fn_with_state(answers, limit_large))
        .layer(places.clone())
        .layer(large_places);
    small.layer(places).merge(large)
}

/// The answer to a request that is not worked on now.
pub(crate) fn busy(why: &str) -> Response {
    let mut response = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    response
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use axum::{
        body::{Body, to_bytes},
        routing::get,
    };
    use futures::future::join_all;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use tokio::sync::Notify;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn service(limits: RequestLimits) -> TowerToHyperService<Router> {
        let router = Router::new()
            .route("/quick", get(|| async { "quick" }))
            .route("/endless", get(std::future::pending::<String>))
            .layer(from_fn_with_state(limits, limit));
        TowerToHyperService::new(router)
    }

    fn request(path: &str) -> hyper::Request<Body> {
        hyper::Request::get(path).body(Body::empty()).unwrap()
    }

    fn request_from(last: u8, path: &str) -> hyper::Request<Body> {
        let mut request = request(path);
        let address = ClientAddress::of([10, 0, 0, last].into());
        request.extensions_mut().insert(address);
        request
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_counts_until_its_answer_is_sent_and_further_ones_are_told_when_to_come_back()
    {
        let service = service(RequestLimits::new((1, 1), 5 * SECOND, 20 * SECOND));
        let unsent = service.call(request("/quick")).await.unwrap();
        let refused = service.call(request("/quick")).await.unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers()[header::RETRY_AFTER], "2");
        let sent = to_bytes(unsent.into_body(), 100).await.unwrap();
        assert_eq!(sent, "quick");
        let next = service.call(request("/quick")).await.unwrap();
        assert_eq!(next.status(), StatusCode::OK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_has_at_most_half_of_the_places_of_the_read_api() {
        let service = service(RequestLimits::of_read_api(false));
        let from = |last: u8, path| service.call(request_from(last, path));
        let many = join_all((0..50).map(|_| from(1, "/endless")));
        let other = async {
            let answers = join_all((0..8).map(|_| from(2, "/quick"))).await;
            answers
                .into_iter()
                .map(|answer| answer.unwrap().status())
                .collect::<Vec<_>>()
        };
        let (many, other) = tokio::join!(many, other);
        assert_eq!(other, [StatusCode::OK; 8]);
        let many = many.into_iter().map(|answer| answer.unwrap().status());
        assert!(
            many.into_iter()
                .all(|status| status == StatusCode::SERVICE_UNAVAILABLE)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn large_answers_wait_until_there_is_room_and_a_larger_one_than_all_room_is_sent_alone() {
        let large = Router::new()
            .route("/8", get(|| async { "12345678" }))
            .route("/20", get(|| async { "12345678901234567890" }));
        let router = limit_paths(Router::new(), large, false, LargeAnswers::within(10));
        let service = TowerToHyperService::new(router);
        let from = |last: u8, path| service.call(request_from(last, path));
        let first = from(1, "/8").await.unwrap();
        let refused = from(2, "/8").await.unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers()[header::RETRY_AFTER], "2");
        to_bytes(first.into_body(), 100).await.unwrap();
        let alone = from(3, "/20").await.unwrap();
        assert_eq!(
            from(4, "/8").await.unwrap().status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
        drop(alone);
        let next = from(5, "/8").await.unwrap();
        assert_eq!(to_bytes(next.into_body(), 100).await.unwrap(), "12345678");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_for_large_answers_that_are_not_read_leave_places_to_all_others() {
        let small = Router::new().route("/small", get(|| async { "small" }));
        let large = Router::new().route("/large", get(|| async { "large" }));
        for addresses in [2, 16, 64] {
            let router = limit_paths(
                small.clone(),
                large.clone(),
                false,
                LargeAnswers::within(10),
            );
            let service = TowerToHyperService::new(router);
            let from = |last: u8, path| service.call(request_from(last, path));
            // Their answers are kept: nobody reads them.
            let unread = join_all(
                (1..=addresses)
                    .flat_map(|last| (0..8).map(move |_| last))
                    .map(|last| from(last, "/large")),
            );
            let readers = async {
                // Behind the eight of each that asked before, whose first ones hold what they may.
                for last in (1..=addresses).chain([200]) {
                    let began = tokio::time::Instant::now();
                    let answer = from(last, "/small").await.unwrap();
                    assert_eq!(answer.status(), StatusCode::OK, "{last} of {addresses}");
                    assert_eq!(began.elapsed(), Duration::ZERO, "{last} of {addresses}");
                }
            };
            let (unread, ()) = tokio::join!(unread, readers);
            let statuses = unread
                .iter()
                .map(|answer| answer.as_ref().unwrap().status());
            assert!(statuses.clone().any(|status| status == StatusCode::OK));
            assert!(
                statuses
                    .clone()
                    .any(|status| status == StatusCode::SERVICE_UNAVAILABLE)
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn large_answers_are_made_one_at_a_time_and_one_for_each_address() {
        let (made, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (counts, waits) = (made.clone(), go.clone());
        let large = Router::new().route(
            "/large",
            get(async move || {
                counts.fetch_add(1, Ordering::Relaxed);
                waits.notified().await;
                "1234"
            }),
        );
        let router = limit_paths(Router::new(), large, false, LargeAnswers::within(10));
        let service = TowerToHyperService::new(router);
        let from = async |last: u8| {
            let request = request_from(last, "/large");
            service.call(request).await.unwrap()
        };
        let mut all = pin!(join_all([from(1), from(1), from(2)]));
        for number in [1, 2, 2] {
            assert!(timeout(SECOND, all.as_mut()).await.is_err());
            assert_eq!(made.load(Ordering::Relaxed), number);
            go.notify_one();
        }
        // What was made for the first address is not sent yet.
        let answers = all.await;
        let statuses: Vec<_> = answers.iter().map(|it| it.status().as_u16()).collect();
        assert_eq!(statuses, [200, 503, 200]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_takes_too_long_is_given_up_and_frees_its_place() {
        let service = service(RequestLimits::new((1, 1), 5 * SECOND, 20 * SECOND));
        let answer = timeout(21 * SECOND, service.call(request("/endless")));
        let given_up = answer.await.expect("it is given up in time").unwrap();
        assert_eq!(given_up.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = to_bytes(given_up.into_body(), 1_000).await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains("20 s"));
        let next = service.call(request("/quick")).await.unwrap();
        assert_eq!(next.status(), StatusCode::OK);
    }
}
