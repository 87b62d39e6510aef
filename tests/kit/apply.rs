//! Server-side apply of whatever object, as `kubectl apply --server-side --force-conflicts` does it.
//!
//! The mapping from kind to path is asked of the API server, so custom resources work as soon as their
//! definition is served, and not before: it is waited for.

use crate::{wait::eventually, workloads::Manifest};
use anyhow::{Context, Result};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::{Scope, pinned_kind},
};
use serde_json::Value;
use std::time::Duration;

const FIELD_MANAGER: &str = "shipbell-tests";
/// A new custom resource definition is served within a second or two.
const SERVED_WITHIN: Duration = Duration::from_secs(15);

/// Objects to apply: a manifest, a JSON value, or YAML with any number of documents.
#[derive(Clone, Debug)]
pub struct Objects(Result<Vec<Value>, String>);

impl From<Manifest> for Objects {
    fn from(manifest: Manifest) -> Self {
        Objects(Ok(vec![manifest.into()]))
    }
}

impl From<Value> for Objects {
    fn from(value: Value) -> Self {
        Objects(Ok(vec![value]))
    }
}

impl From<Vec<Value>> for Objects {
    fn from(values: Vec<Value>) -> Self {
        Objects(Ok(values))
    }
}

impl From<&str> for Objects {
    fn from(yaml: &str) -> Self {
        let documents =
            serde_saphyr::from_multiple::<Value>(yaml).map_err(|error| error.to_string());
        // helm prints documents of nothing but comments.
        Objects(documents.map(|all| all.into_iter().filter(Value::is_object).collect()))
    }
}

impl From<&String> for Objects {
    fn from(yaml: &String) -> Self {
        yaml.as_str().into()
    }
}

/// Applies objects in their order and returns them as the API server has them now.
pub async fn apply(client: &Client, objects: impl Into<Objects>) -> Result<Vec<DynamicObject>> {
    let objects = objects.into().0.map_err(anyhow::Error::msg)?;
    let mut applied = Vec::new();
    for object in objects {
        applied.push(apply_one(client, &object).await?);
    }
    Ok(applied)
}

async fn apply_one(client: &Client, object: &Value) -> Result<DynamicObject> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let kind = text("/kind").context("an object without a kind")?;
    let name = text("/metadata/name").context("an object without a name")?;
    let api = dynamic_api(
        client,
        text("/apiVersion").unwrap_or_default(),
        kind,
        text("/metadata/namespace"),
    )
    .await?;
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(name, &params, &Patch::Apply(object))
        .await
        .with_context(|| format!("cannot apply {kind} {name}"))
}

/// The API for a kind known by name only, in `namespace` (or `default`) if it is a namespaced one.
pub async fn dynamic_api(
    client: &Client,
    api_version: &str,
    kind: &str,
    namespace: Option<&str>,
) -> Result<Api<DynamicObject>> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let gvk = GroupVersionKind::gvk(group, version, kind);
    let what = format!("{kind} of {api_version} to be served");
    let (resource, capabilities) = eventually(SERVED_WITHIN, &what, async || {
        pinned_kind(client, &gvk).await.map(Some)
    })
    .await?;
    Ok(match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            Api::namespaced_with(client.clone(), namespace.unwrap_or("default"), &resource)
        }
    })
}
