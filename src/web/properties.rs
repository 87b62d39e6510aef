#![expect(
    clippy::disallowed_types,
    reason = "the API server is played by a router"
)]

//! Whatever a client sends, the read API answers, and nothing panics.

use std::sync::Arc;

use axum::{
    Json, Router,
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
use serde_json::json;
use tokio::runtime::Builder;

use crate::{
    cluster::image::Fingerprint,
    simulation::testing::reader_tries,
    snapshot::{
        environments::{EnvironmentInfo, Environments, Head},
        log::SnapshotLog,
        shared_state::SharedState,
        state::ClusterState,
    },
    web::{
        access::{Access, bearer_token},
        lookup::Lookup,
        read_api,
        snapshot_expression::SnapshotExpression,
        testing::installation,
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

/// The read API of an installation whose API server has no snapshot.
fn api(head: Option<i64>) -> TowerToHyperService<Router> {
    let absent = || async {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": "none"});
        (StatusCode::NOT_FOUND, Json(status))
    };
    let client = Client::new(Router::new().fallback(absent), "shipbell");
    let environments = Arc::new(Environments::default());
    for (name, head) in [("prod", head), ("empty", None)] {
        let info = EnvironmentInfo {
            uid: format!("uid-of-{name}"),
            generation: 1,
            created: None,
            visible_to: vec![],
            head: Head::default(),
        };
        info.head
            .set(head.map(|head| (head, Timestamp::UNIX_EPOCH)));
        environments.put(name, info);
    }
    let lookup = Lookup {
        state: SharedState::new(ClusterState::new(true, "shipbell")),
        log: SnapshotLog::new(client),
        environments,
        installation: Arc::new(installation()),
        flows: Arc::default(),
    };
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
            let answer = api(head).call(request).await.unwrap();
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
