#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Writes the status of our own kinds.

use std::time::Duration;

use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

/// How long to wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What became of a status write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusWriteResult {
    /// It was written.
    Written,
    /// The object is gone, or another one has its name: the watch reports it.
    Gone,
}

/// Replaces the status of the object with this UID. The namespace of a cluster-wide object is empty.
pub(crate) async fn apply_status<K: Resource<DynamicType = ()>>(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: &str,
    status: &impl Serialize,
) -> Result<StatusWriteResult, String> {
    let resource = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = if namespace.is_empty() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, &resource)
    };
    let patch = Patch::Apply(json!({
        "apiVersion": resource.api_version, "kind": resource.kind,
        "metadata": {"name": name, "uid": uid}, "status": status,
    }));
    let params = PatchParams::apply("shipbell").force();
    match timeout(TIMEOUT, api.patch_status(name, &params, &patch)).await {
        Ok(Ok(_)) => Ok(StatusWriteResult::Written),
        Ok(Err(kube::Error::Api(gone))) if gone.code == 404 || gone.code == 409 => {
            Ok(StatusWriteResult::Gone)
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer from the API server".to_owned()),
    }
}
