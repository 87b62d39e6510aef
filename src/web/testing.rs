//! What several tests of this module need.

use crate::{
    message::installation::Installation,
    simulation::{Cluster, testing::digest},
};

pub(crate) fn installation() -> Installation {
    Installation {
        org: "acme".to_owned(),
        cluster: "c".to_owned(),
        external_url: Some("https://s.example".to_owned()),
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
