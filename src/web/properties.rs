#![expect(
    clippy::disallowed_types,
    reason = "the API server is played by a router"
)]

//! Whatever a client sends, the read API answers, and nothing panics.

use std::{cell::RefCell, collections::BTreeSet};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, HeaderValue, Request, StatusCode, header},
};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use jiff::{Timestamp, civil::DateTime};
use kube::Client;
use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{TestCaseError, TestRunner},
};
use serde_json::{Value, json};
use tokio::runtime::Builder;

use crate::{
    cluster::image::Fingerprint,
    simulation::{
        hostile_json::{Edit, edited, edits},
        hostile_log,
        testing::reader_tries,
    },
    web::{
        access::{Access, bearer_token},
        read_api,
        snapshot_expression::SnapshotExpression,
        testing::lookup,
    },
};

/// Numbers at the edges of what is possible, and any others.
fn number() -> impl Strategy<Value = String> {
    let edges = vec![
        i64::MIN,
        i64::MIN + 1,
        -1,
        0,
        1,
        2_562_047_788_015_215,
        2_562_047_788_015_216,
        i64::MAX / 720,
        i64::MAX - 1,
        i64::MAX,
    ];
    prop_oneof![
        select(edges).prop_map(|number| number.to_string()),
        select(vec![
            "18446744073709551615",
            "18446744073709551616",
            "99999999999999999999999",
            "-0",
            "+1",
            "1e9",
            "٣"
        ])
        .prop_map(str::to_owned),
        any::<i64>().prop_map(|number| number.to_string()),
        (-20..40_i64).prop_map(|number| number.to_string()),
    ]
}

/// Expressions that name a snapshot, and what resembles them.
fn expression() -> impl Strategy<Value = String> {
    let unit = select(vec![
        "hour", "hours", "days", "weeks", "month", "months", "year", "s", "",
    ]);
    let edges = vec![DateTime::MIN, DateTime::MAX, DateTime::ZERO];
    prop_oneof![
        number(),
        number().prop_map(|number| format!("#{number}")),
        number().prop_map(|number| format!("~{number}")),
        (number(), unit).prop_map(|(number, unit)| format!("@{{{number}.{unit}.ago}}")),
        number().prop_map(|year| format!("@{{{year}-12-31T23:59:60}}")),
        select(edges).prop_map(|time| format!("@{{{time}}}")),
        "@\\{[0-9T:+.Z-]{0,30}\\}?",
        "[@{}~#0-9.a-z-]{0,20}",
        any::<String>(),
    ]
}

/// One segment of a path, encoded.
fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => select(vec!["acme", "prod", "empty", "api", "v2", "snapshots", "environments", "events", "flows", "deployments", "approvals", "fingerprint"])
            .prop_map(str::to_owned),
        2 => expression().prop_map(|text| encoded(text.as_bytes())),
        1 => vec(any::<u8>(), 0..40).prop_map(|bytes| encoded(&bytes)),
        1 => "[0-9a-f]{64}",
        1 => "[0-9A-Fa-f]{60,68}",
    ]
}

fn encoded(bytes: &[u8]) -> String {
    let parts: Vec<String> = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
    parts.concat()
}

/// Paths of the read API with anything in their variable parts, and any other paths.
fn path() -> impl Strategy<Value = String> {
    let of_api = select(vec![
        "/api/v2/snapshots/acme/prod/{}",
        "/acme/environments/prod/snapshots/{}",
        "/api/v2/snapshots/acme/{}/{}",
        "/api/v2/snapshots/acme/prod",
        "/api/v2/environments/acme/prod/events",
        "/api/v2/environments/acme/{}",
        "/acme/environments/{}",
        "/api/v2/allowlists/acme/{}",
        "/api/v2/artifacts/acme/{}/fingerprint/{}",
        "/acme/{}/{}",
        "/api/v2/deployments/acme/{}/{}",
        "/acme/flows/{}/approvals/{}",
        "/{}/{}/{}",
    ]);
    prop_oneof![
        4 => (of_api, vec(segment(), 3)).prop_map(|(path, segments)| {
            segments.iter().fold(path.to_owned(), |path, segment| path.replacen("{}", segment, 1))
        }),
        1 => vec(segment(), 0..9).prop_map(|segments| format!("/{}", segments.join("/"))),
    ]
}

fn query() -> impl Strategy<Value = String> {
    let pair = (select(vec!["page", "per_page", "reverse", "x"]), number());
    prop_oneof![
        2 => vec(pair.prop_map(|(name, value)| format!("{name}={value}")), 0..4)
            .prop_map(|pairs| pairs.join("&")),
        1 => vec(any::<u8>(), 0..30).prop_map(|bytes| encoded(&bytes)),
    ]
}

/// The number of the newest snapshot, which the name of an object says.
fn head() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![
        Just(None),
        (1..50_i64).prop_map(Some),
        (1..=i64::MAX).prop_map(Some),
        Just(Some(i64::MAX)),
    ]
}

/// An API server that has nothing.
fn empty() -> Router {
    let (code, body) = failure(404, "NotFound");
    let status = StatusCode::from_u16(code).unwrap();
    let answer = (status, [(header::CONTENT_TYPE, "application/json")], body);
    Router::new().fallback(async move || answer.clone())
}

/// The read API of an installation.
fn api(api_server: Router, head: Option<i64>) -> TowerToHyperService<Router> {
    let client = Client::new(api_server, "shipbell");
    let lookup = lookup(client, head);
    TowerToHyperService::new(read_api::router(lookup, Access::Everybody))
}

#[test]
fn every_request_gets_an_answer_of_the_read_api_that_says_why() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let requests = (head(), path(), query());
    let run = TestRunner::new(reader_tries()).run(&requests, |(head, path, query)| {
        let Ok(request) = Request::get(format!("{path}?{query}")).body(Body::empty()) else {
            return Err(TestCaseError::reject("no URI"));
        };
        let (status, headers, body) = runtime.block_on(async {
            let answer = api(empty(), head).call(request).await.unwrap();
            let (parts, body) = answer.into_parts();
            (
                parts.status,
                parts.headers,
                to_bytes(body, 1 << 20).await.unwrap(),
            )
        });
        prop_assert_eq!(
            headers.get(header::CACHE_CONTROL),
            Some(&HeaderValue::from_static("no-store"))
        );
        let body = String::from_utf8_lossy(&body);
        match status.as_u16() {
            200 => {}
            // The API server of this test fails every list.
            400 | 404 | 502 => prop_assert!(body.contains("\"message\""), "{}", body),
            other => prop_assert!(false, "{} {}", other, body),
        }
        Ok(())
    });
    run.unwrap();
}

/// What the API server has under a name of a snapshot.
#[derive(Clone, Debug)]
enum Stored {
    Nothing,
    /// An entry of the log, with these edits.
    Entry(Vec<Edit>),
    /// An object of another kind.
    Other,
    /// No object at all.
    Bytes(Vec<u8>),
    /// The API server fails.
    Failure(u16),
}

fn stored() -> impl Strategy<Value = Stored> {
    prop_oneof![
        1 => Just(Stored::Nothing),
        8 => edits().prop_map(Stored::Entry),
        1 => Just(Stored::Other),
        1 => vec(any::<u8>(), 0..200).prop_map(Stored::Bytes),
        1 => select(vec![400, 403, 409, 410, 422, 429, 500, 503]).prop_map(Stored::Failure),
    ]
}

/// The metadata of a snapshot, as a list has it.
fn metadata(number: i64) -> Value {
    json!({
        "name": format!("prod-{number:010}"), "uid": format!("{number}"), "resourceVersion": "7",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"shipbell.dev/environment": "prod", "shipbell.dev/environment-uid": "uid-of-prod"},
        "annotations": {"shipbell.dev/events": "2", "shipbell.dev/bytes": "900"},
    })
}

/// An API server whose log holds these things, one after the other.
fn api_server(all: Vec<Stored>, listed: Vec<Vec<Edit>>) -> Router {
    let answer = move |request: Request<Body>| {
        let path = request.uri().path();
        let named = path.rsplit('/').next().unwrap_or_default();
        let number = named
            .strip_prefix("prod-")
            .and_then(|it| it.parse::<i64>().ok());
        let (status, body) = match number {
            // Only this kind is listed.
            None => {
                let items = (1..).zip(&listed).map(|(number, edits)| {
                    let item = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata(number)});
                    edited(&item, edits)
                });
                let items: Vec<Value> = items.collect();
                let list = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {"resourceVersion": "9"}, "items": items});
                (200, list.to_string().into_bytes())
            }
            Some(number) => {
                let at = usize::try_from(number).unwrap_or(0);
                match &all[at % all.len()] {
                    Stored::Nothing => failure(404, "NotFound"),
                    Stored::Failure(status) => failure(*status, "Failure"),
                    Stored::Bytes(bytes) => (200, bytes.clone()),
                    Stored::Other => (
                        200,
                        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata(number)})
                            .to_string()
                            .into_bytes(),
                    ),
                    Stored::Entry(edits) => {
                        let entries = hostile_log::entries();
                        let mut spec = entries[at % entries.len()].clone();
                        spec["index"] = number.into();
                        spec["environmentUID"] = "uid-of-prod".into();
                        let object = json!({"apiVersion": "shipbell.dev/v1alpha1", "kind": "EnvironmentSnapshot", "metadata": metadata(number), "spec": spec});
                        (200, edited(&object, edits).to_string().into_bytes())
                    }
                }
            }
        };
        let status = StatusCode::from_u16(status).unwrap();
        async move { (status, [(header::CONTENT_TYPE, "application/json")], body) }
    };
    Router::new().fallback(answer)
}

fn failure(code: u16, reason: &str) -> (u16, Vec<u8>) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": "none"});
    (code, status.to_string().into_bytes())
}

#[test]
fn whatever_the_log_holds_the_read_api_answers() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let head = prop_oneof![3 => (1..30_i64).prop_map(Some), 1 => Just(None)];
    let log = (head, vec(stored(), 1..8), vec(edits(), 0..8));
    let mut seen = BTreeSet::new();
    let seen = RefCell::new(&mut seen);
    let run = TestRunner::new(reader_tries()).run(
        &(log, path(), query()),
        |((head, all, listed), path, query)| {
            let Ok(request) = Request::get(format!("{path}?{query}")).body(Body::empty()) else {
                return Err(TestCaseError::reject("no URI"));
            };
            let (status, headers, body) = runtime.block_on(async {
                let answer = api(api_server(all, listed), head)
                    .call(request)
                    .await
                    .unwrap();
                let (parts, body) = answer.into_parts();
                (
                    parts.status,
                    parts.headers,
                    to_bytes(body, 64 << 20).await.unwrap(),
                )
            });
            seen.borrow_mut().insert(status.as_u16());
            let body = String::from_utf8_lossy(&body);
            let is_page = headers
                .get(header::CONTENT_TYPE)
                .is_some_and(|it| it.as_bytes().starts_with(b"text/html"));
            match status.as_u16() {
                200 if is_page => prop_assert!(!body.contains("<script"), "{}", body),
                200 => prop_assert!(serde_json::from_str::<Value>(&body).is_ok(), "{}", body),
                400 | 404 | 502 => prop_assert!(body.contains("\"message\""), "{}", body),
                other => prop_assert!(false, "{} {}", other, body),
            }
            Ok(())
        },
    );
    run.unwrap();
    for status in [200, 404, 502] {
        assert!(seen.borrow().contains(&status), "{:?}", seen.borrow());
    }
}

#[test]
fn a_log_that_cannot_be_read_is_no_log_that_is_not_there() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    for (stored, expected) in [
        (Stored::Entry(vec![]), 200),
        (Stored::Nothing, 404),
        (Stored::Bytes(b"garbage".to_vec()), 502),
        (Stored::Failure(403), 502),
        (Stored::Failure(503), 502),
    ] {
        let answer = runtime.block_on(async {
            let service = api(api_server(vec![stored.clone()], vec![]), Some(1));
            let request = Request::get("/api/v2/snapshots/acme/prod/1").body(Body::empty());
            service.call(request.unwrap()).await.unwrap()
        });
        assert_eq!(answer.status().as_u16(), expected, "{stored:?}");
    }
}

#[test]
fn a_snapshot_that_says_to_have_very_many_events_stops_no_answer() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let item = |number: i64| {
        let mut metadata = metadata(number);
        metadata["annotations"]["shipbell.dev/events"] = usize::MAX.to_string().into();
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata})
    };
    let list = json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
        "metadata": {"resourceVersion": "9"}, "items": [item(1), item(2)],
    });
    let lists = Router::new().fallback(async move || list.to_string());
    let answer = runtime.block_on(async {
        let request = Request::get("/api/v2/environments/acme/prod/events?page=9");
        let request = request.body(Body::empty()).unwrap();
        api(lists, Some(2)).call(request).await.unwrap()
    });
    assert_eq!(answer.status(), StatusCode::OK);
}

proptest! {
    #![proptest_config(reader_tries())]

    #[test]
    fn any_expression_is_read_at_any_time(text in expression(), now in any::<i64>()) {
        let now = Timestamp::from_second(now).unwrap_or(Timestamp::MAX);
        SnapshotExpression::parse(&text, now);
        SnapshotExpression::parse(&text, Timestamp::MIN);
    }

    #[test]
    fn any_digest_and_any_authorization_are_read(bytes in vec(any::<u8>(), 0..80), text in any::<String>()) {
        Fingerprint::from_hex(&text);
        Fingerprint::from_hex(&String::from_utf8_lossy(&bytes));
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value);
            bearer_token(&headers);
        }
    }
}
