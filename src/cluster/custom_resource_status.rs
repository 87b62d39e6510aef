#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Writes the status of our own kinds, and reads what the API server answers to a write.

use std::time::Duration;

use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

use crate::cluster::pod_view;

/// How long to wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What became of a status write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StatusWriteResult {
    /// It was written, and the object has this version now.
    Written { version: u64 },
    /// The object is gone, or another one has its name: the watch reports it.
    Gone,
    /// The API server refused it for what it holds, and why: a smaller one may be accepted.
    Refused(String),
    /// It is not to be written at present, and why: whoever guards this object says so, or a right is missing.
    Denied(String),
}

/// Whether the API server answered with this code. What kube's own names stand for depends on the reason beside it, which
/// may be missing.
pub(crate) fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Whether the API server refused an object for what it holds: another one may be accepted.
pub(crate) fn refuses_content(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    // An object that is too big for etcd is refused with 500.
    matches!(status.code, 400 | 413 | 422) || status.message.contains("request is too large")
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
        Ok(Ok(object)) => {
            let version = object.metadata.resource_version.unwrap_or_default();
            let version = pod_view::version(&version);
            Ok(StatusWriteResult::Written { version })
        }
        Ok(Err(error)) if has_code(&error, 404) || has_code(&error, 409) => {
            Ok(StatusWriteResult::Gone)
        }
        Ok(Err(error)) if refuses_content(&error) => {
            Ok(StatusWriteResult::Refused(error.to_string()))
        }
        Ok(Err(error)) if has_code(&error, 403) => Ok(StatusWriteResult::Denied(error.to_string())),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer from the API server".to_owned()),
    }
}
