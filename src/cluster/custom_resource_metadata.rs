//! The metadata of our own kinds, as far as somebody reads it: annotations and managed fields can take more memory than all
//! else of an object.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ObjectMeta;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use crate::{
    api::{REPLAY_ANNOTATION, TEST_ANNOTATION},
    cluster::pod_view::{Meta, uid, version},
};

/// At most so many characters of an annotation are kept.
const ANNOTATION: usize = 256;

/// What is kept of the metadata of an object.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SlimMetadata {
    name: String,
    namespace: Option<String>,
    uid: String,
    resource_version: String,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    annotations: Option<Requests>,
}

impl SlimMetadata {
    /// As the loop that reads the object needs it.
    pub(crate) fn meta(&self) -> Meta {
        Meta {
            namespace: self.namespace.clone().unwrap_or_default(),
            name: self.name.clone(),
            uid: uid(&self.uid),
            version: version(&self.resource_version),
        }
    }
}

impl From<SlimMetadata> for ObjectMeta {
    fn from(slim: SlimMetadata) -> Self {
        let asked = slim.annotations.map(|annotations| annotations.0);
        Self {
            name: Some(slim.name),
            namespace: slim.namespace,
            uid: Some(slim.uid),
            resource_version: Some(slim.resource_version),
            generation: slim.generation,
            creation_timestamp: slim.creation_timestamp,
            annotations: asked.filter(|asked| !asked.is_empty()),
            ..Self::default()
        }
    }
}

/// The only annotations that are read: those that request something.
#[derive(Debug)]
struct Requests(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Requests {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Annotations;

        impl<'de> Visitor<'de> for Annotations {
            type Value = Requests;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("annotations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    if [TEST_ANNOTATION, REPLAY_ANNOTATION].contains(&&*key) {
                        let value = map.next_value::<String>()?;
                        found.insert(key, value.chars().take(ANNOTATION).collect());
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Requests(found))
            }
        }

        deserializer.deserialize_map(Annotations)
    }
}
