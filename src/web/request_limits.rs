#![expect(clippy::disallowed_methods, reason = "waits for a limited time")]

//! Bounds what requests take up together: how many are worked on at once, and for how long.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tokio::{sync::Semaphore, time::timeout};

use crate::web::{error_response::Refusal, held_body::hold};

/// How many requests are worked on at once, and how long they may take.
#[derive(Clone, Debug)]
pub(crate) struct RequestLimits {
    permits: Arc<Semaphore>,
    /// How long a request waits until it is worked on.
    queue: Duration,
    /// How long it may be worked on.
    deadline: Duration,
}

impl RequestLimits {
    pub(crate) fn new(at_once: usize, queue: Duration, deadline: Duration) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(at_once)),
            queue,
            deadline,
        }
    }

    /// For the read API: an answer may hold a large snapshot.
    pub(crate) fn of_read_api() -> Self {
        Self::new(8, Duration::from_secs(5), Duration::from_secs(20))
    }

    /// For `/metrics`, whose text grows with the number of environments.
    pub(crate) fn of_metrics() -> Self {
        Self::new(4, Duration::from_secs(5), Duration::from_secs(5))
    }
}

/// Lets so many requests pass at once. A request counts until its answer is sent.
pub(crate) async fn limit(
    State(limits): State<RequestLimits>,
    request: Request,
    next: Next,
) -> Response {
    let permit = timeout(limits.queue, limits.permits.acquire_owned()).await;
    let Ok(Ok(permit)) = permit else {
        return busy("too many requests at once; try again");
    };
    match timeout(limits.deadline, next.run(request)).await {
        Ok(response) => hold(response, permit),
        Err(_) => {
            let seconds = limits.deadline.as_secs();
            busy(&format!(
                "the request took longer than {seconds} s; try again, or ask for less"
            ))
        }
    }
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
    use axum::{
        Router,
        body::{Body, to_bytes},
        middleware::from_fn_with_state,
        routing::get,
    };
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

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

    #[tokio::test(start_paused = true)]
    async fn a_request_counts_until_its_answer_is_sent_and_further_ones_are_told_when_to_come_back()
    {
        let service = service(RequestLimits::new(1, 5 * SECOND, 20 * SECOND));
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
    async fn a_request_that_takes_too_long_is_given_up_and_frees_its_place() {
        let service = service(RequestLimits::new(1, 5 * SECOND, 20 * SECOND));
        let answer = timeout(21 * SECOND, service.call(request("/endless")));
        let given_up = answer.await.expect("it is given up in time").unwrap();
        assert_eq!(given_up.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = to_bytes(given_up.into_body(), 1_000).await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains("20 s"));
        let next = service.call(request("/quick")).await.unwrap();
        assert_eq!(next.status(), StatusCode::OK);
    }
}
