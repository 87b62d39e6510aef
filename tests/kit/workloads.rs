//! Workloads to create: small objects with the few knobs the stories turn.

use serde_json::{Value, json};

/// An object to apply; its knobs can be chained.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest(Value);

impl From<Manifest> for Value {
    fn from(manifest: Manifest) -> Value {
        manifest.0
    }
}

/// A Deployment.
pub fn deployment(namespace: &str, name: &str, image: &str, replicas: u32) -> Manifest {
    workload("apps/v1", "Deployment", namespace, name, image).set("/spec/replicas", replicas.into())
}

/// A `StatefulSet` that starts its pods all at once.
pub fn stateful_set(namespace: &str, name: &str, image: &str, replicas: u32) -> Manifest {
    workload("apps/v1", "StatefulSet", namespace, name, image)
        .set("/spec/replicas", replicas.into())
        .set("/spec/serviceName", name.into())
        .set("/spec/podManagementPolicy", "Parallel".into())
}

/// A `DaemonSet`.
pub fn daemon_set(namespace: &str, name: &str, image: &str) -> Manifest {
    workload("apps/v1", "DaemonSet", namespace, name, image)
}

/// A Job of one pod that is tried once.
pub fn job(namespace: &str, name: &str, image: &str) -> Manifest {
    let mut job = workload("batch/v1", "Job", namespace, name, image)
        .set("/spec/backoffLimit", 0.into())
        .set("/spec/template/spec/restartPolicy", "Never".into());
    // A Job makes its own.
    job.0["spec"]
        .as_object_mut()
        .map(|spec| spec.remove("selector"));
    job
}

/// A Pod that no controller owns.
pub fn bare_pod(namespace: &str, name: &str, image: &str) -> Manifest {
    Manifest(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"containers": [container("app", image)]},
    }))
}

fn workload(api_version: &str, kind: &str, namespace: &str, name: &str, image: &str) -> Manifest {
    Manifest(json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [container("app", image)]},
            },
        },
    }))
}

fn container(name: &str, image: &str) -> Value {
    json!({"name": name, "image": image})
}

impl Manifest {
    /// Sets any field by its JSON pointer, making the objects on the way.
    #[must_use]
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        *at(&mut self.0, pointer) = value;
        self
    }

    /// A further container; the first is called `app`.
    #[must_use]
    pub fn container(self, name: &str, image: &str) -> Self {
        self.push("containers", container(name, image))
    }

    /// An init container that runs once.
    #[must_use]
    pub fn init(self, name: &str, image: &str) -> Self {
        self.push("initContainers", container(name, image))
    }

    /// A native sidecar: an init container that stays.
    #[must_use]
    pub fn sidecar(self, name: &str, image: &str) -> Self {
        self.push(
            "initContainers",
            json!({"name": name, "image": image, "restartPolicy": "Always"}),
        )
    }

    /// How many seconds a deleted pod may take to stop.
    #[must_use]
    pub fn grace_period(self, seconds: u32) -> Self {
        let pointer = format!("{}/terminationGracePeriodSeconds", self.pod_spec());
        self.set(&pointer, seconds.into())
    }

    /// A Deployment's rolling update: how many more and how many fewer pods it may have.
    #[must_use]
    pub fn rolling(self, max_surge: u32, max_unavailable: u32) -> Self {
        self.set(
            "/spec/strategy",
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": max_surge, "maxUnavailable": max_unavailable}}),
        )
    }

    /// A Deployment that stops all before it starts any.
    #[must_use]
    pub fn recreate(self) -> Self {
        self.set("/spec/strategy", json!({"type": "Recreate"}))
    }

    /// A `StatefulSet`'s partition: only ordinals from here on are updated.
    #[must_use]
    pub fn partition(self, ordinal: u32) -> Self {
        self.set(
            "/spec/updateStrategy",
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": ordinal}}),
        )
    }

    /// An annotation of the object itself.
    #[must_use]
    pub fn annotation(self, key: &str, value: &str) -> Self {
        let key = key.replace('~', "~0").replace('/', "~1");
        self.set(&format!("/metadata/annotations/{key}"), value.into())
    }

    /// A label of the pods.
    #[must_use]
    pub fn pod_label(self, key: &str, value: &str) -> Self {
        let key = key.replace('~', "~0").replace('/', "~1");
        let pods = if self.0["kind"] == "Pod" {
            ""
        } else {
            "/spec/template"
        };
        self.set(&format!("{pods}/metadata/labels/{key}"), value.into())
    }

    fn push(mut self, list: &str, value: Value) -> Self {
        let pointer = format!("{}/{list}", self.pod_spec());
        match at(&mut self.0, &pointer) {
            Value::Array(items) => items.push(value),
            other => *other = json!([value]),
        }
        self
    }

    fn pod_spec(&self) -> &'static str {
        if self.0["kind"] == "Pod" {
            "/spec"
        } else {
            "/spec/template/spec"
        }
    }
}

fn at<'a>(value: &'a mut Value, pointer: &str) -> &'a mut Value {
    pointer.split('/').skip(1).fold(value, |value, token| {
        let token = token.replace("~1", "/").replace("~0", "~");
        match token.parse::<usize>() {
            Ok(index) if value.is_array() => &mut value[index],
            _ => &mut value[token.as_str()],
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knobs_add_up() {
        let value: Value = deployment("ns", "web", "app:v1", 2)
            .container("second", "b:v1")
            .sidecar("proxy", "p:v1")
            .grace_period(5)
            .annotation("a/b", "c")
            .into();
        let pod = &value["spec"]["template"]["spec"];
        assert_eq!(pod["containers"][1]["name"], "second");
        assert_eq!(pod["initContainers"][0]["restartPolicy"], "Always");
        assert_eq!(pod["terminationGracePeriodSeconds"], 5);
        assert_eq!(value["metadata"]["annotations"]["a/b"], "c");
        assert_eq!(value["spec"]["replicas"], 2);
    }
}
