#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! The Environment that exists after an installation without further configuration: it selects all namespaces.

use std::{collections::BTreeSet, fmt::Debug, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use crate::{
    api::{Environment, EnvironmentSpec, environment::Namespaces},
    backoff::{self, Backoff},
    snapshot::environments::Environments,
};

/// How long to wait for the API server's answer.
const ANSWER: Duration = Duration::from_secs(10);
/// The pauses between attempts.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(60));
/// The ConfigMap that remembers that the default Environment was created once, so that a deleted one stays deleted.
const MARKER: &str = "shipbell-default-environment";

/// Namespaces that belong to the platform and not to its users, in the big distributions.
const PLATFORM: [&str; 23] = [
    "kube-*",
    // OpenShift
    "openshift",
    "openshift-*",
    "open-cluster-management*",
    "multicluster-engine",
    // Rancher
    "cattle-*",
    "fleet-default",
    "fleet-local",
    // Google
    "gke-*",
    "gmp-*",
    "config-management-*",
    // Azure
    "aks-*",
    "azure-arc*",
    // Amazon
    "amazon-*",
    // VMware
    "vmware-system-*",
    "tkg-system*",
    "tanzu-system*",
    // IBM
    "ibm-cert-store",
    "ibm-operators",
    "ibm-system",
    // The network of several of them
    "calico-*",
    "tigera-*",
    "local-path-storage",
];

/// Creates the default Environment if there is none. This happens once in the life of an installation.
///
/// `cluster`: its name. `namespace`: that of the operator, which is left out.
pub(crate) async fn create_once(
    client: Client,
    environments: Arc<Environments>,
    cluster: String,
    namespace: String,
) {
    environments.wait_listed().await;
    let mut pauses = PAUSES;
    while environments.all().is_empty() {
        let created = create(&client, &cluster, &namespace);
        match timeout(ANSWER, created).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                error!(%error, "can't create the default Environment; trying again (create an Environment, or start with --default-environment=false)");
            }
            Err(_) => warn!("no answer when creating the default Environment; trying again"),
        }
        sleep(pauses.take(backoff::random())).await;
    }
}

/// The namespaces that are left out. `namespace`: the operator's.
fn excluded(namespace: &str) -> Vec<String> {
    let platform = PLATFORM.iter().map(|it| (*it).to_owned());
    let all: BTreeSet<String> = platform.chain([namespace.to_owned()]).collect();
    all.into_iter().collect()
}

async fn create(client: &Client, cluster: &str, namespace: &str) -> kube::Result<()> {
    let markers: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    if markers.get_opt(MARKER).await?.is_some() {
        info!(
            "there is no Environment; the default one was created once before and is not created again"
        );
        return Ok(());
    }
    let api: Api<Environment> = Api::all(client.clone());
    let spec = EnvironmentSpec {
        namespaces: Some(Namespaces {
            include: None,
            exclude: Some(excluded(namespace)),
        }),
        ..EnvironmentSpec::default()
    };
    if create_new(&api, &Environment::new(cluster, spec)).await? == Creation::Created {
        info!(environment = cluster, "created the default Environment");
    }
    let marker = ConfigMap {
        metadata: ObjectMeta {
            name: Some(MARKER.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some([("environment".to_owned(), cluster.to_owned())].into()),
        ..ConfigMap::default()
    };
    if let Err(error) = create_new(&markers, &marker).await {
        warn!(%error, "can't write the ConfigMap that remembers that the default Environment was created");
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Creation {
    Created,
    /// There is one of its name.
    Exists,
}

/// Creates an object, unless there is one of its name.
async fn create_new<K>(api: &Api<K>, object: &K) -> kube::Result<Creation>
where
    K: Clone + Debug + DeserializeOwned + Serialize,
{
    match api.create(&PostParams::default(), object).await {
        Ok(_) => Ok(Creation::Created),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(Creation::Exists),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::scope::matches;

    #[test]
    fn the_platform_s_namespaces_are_left_out_and_no_others() {
        let excluded = excluded("shipbell");
        let is_out = |name: &str| excluded.iter().any(|glob| matches(glob, name));
        for name in [
            "kube-system",
            "shipbell",
            "openshift",
            "openshift-monitoring",
            "cattle-system",
            "fleet-local",
            "gke-managed-system",
            "gmp-public",
            "aks-command",
            "amazon-cloudwatch",
            "vmware-system-csi",
            "calico-system",
            "tigera-operator",
        ] {
            assert!(is_out(name), "{name}");
        }
        for name in [
            "default",
            "fleet-tracking",
            "openshop",
            "amazonia",
            "shop",
            "ci",
        ] {
            assert!(!is_out(name), "{name}");
        }
        let page = include_str!("../../docs/environments.md");
        for glob in PLATFORM {
            assert!(
                page.contains(&format!("`{glob}`")),
                "{glob} is not documented"
            );
        }
    }
}
