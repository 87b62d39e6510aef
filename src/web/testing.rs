#![expect(
    clippy::disallowed_types,
    reason = "the API server is played by a router"
)]

//! What several tests of this module need.

use std::sync::Arc;

use jiff::Timestamp;
use kube::Client;

use crate::{
    message::installation::Installation,
    simulation::{Cluster, testing::digest},
    snapshot::{
        environments::{EnvironmentInfo, Environments, Head},
        log::SnapshotLog,
        shared_state::SharedState,
        state::ClusterState,
    },
    web::lookup::Lookup,
};

pub(crate) fn installation() -> Installation {
    Installation {
        org: "acme".to_owned(),
        cluster: "c".to_owned(),
        external_url: Some("https://s.example".to_owned()),
    }
}

/// Where the read API looks everything up. `head`: the number of the newest snapshot of `prod`; `empty` has none.
pub(crate) fn lookup(client: Client, head: Option<i64>) -> Lookup {
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
    Lookup {
        state: SharedState::new(ClusterState::new(true, "shipbell")),
        log: SnapshotLog::new(client),
        environments,
        installation: Arc::new(installation()),
        flows: Arc::default(),
    }
}

/// `web` runs an image without a record; another image that does not run is on the allow-list.
pub(crate) fn non_compliant() -> Cluster {
    let mut cluster = Cluster::bare(true);
    cluster.environment(
        "prod",
        "compliance: {provenance: {required: true}, grace: 60s, recoveryWindow: 1s}",
    );
    cluster.begin();
    cluster.pass(60);
    cluster.start("web", &["v1"], 2);
    cluster.pass(600);
    let entry = format!(
        "{{environments: [prod, test], artifacts: [{{fingerprint: {}, name: soon}}], reason: ' next week ', expiresAt: '2027-12-01T00:00:00Z'}}",
        digest("v9")
    );
    cluster.allow("soon", &entry);
    cluster.pass(60);
    cluster
}
