//! Synthetic pods, made after what a real kubelet and a real controller-manager write: 40 % of each is `managedFields`.
//! Any pod is a function of its number, its incarnation and its state, so a server need not keep them.

use serde_json::{Value, json};
use std::fmt::Write as _;

/// Pods of a workload.
const PER_WORKLOAD: usize = 10;
/// Workloads of a namespace.
const PER_NAMESPACE: usize = 20;

/// What a pod belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A Deployment, by a `ReplicaSet`: 80 % of the pods.
    Deployment,
    /// A `DaemonSet`: 10 %.
    DaemonSet,
    /// A `StatefulSet`: 6 %.
    StatefulSet,
    /// A Job: 4 %.
    Job,
}

/// Where a pod is in its life. The order is that of the events of a pod that is replaced by another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// Created, not yet scheduled.
    Pending,
    /// Scheduled.
    Scheduled,
    /// Its containers are being created.
    Creating,
    /// They run.
    Running,
    /// And are ready.
    Ready,
    /// It is being deleted.
    Deleting,
    /// And no longer ready.
    Unready,
    /// Its containers have ended.
    Ended,
}

const STATES: [State; 8] = [
    State::Pending,
    State::Scheduled,
    State::Creating,
    State::Running,
    State::Ready,
    State::Deleting,
    State::Unready,
    State::Ended,
];
const KINDS: [Kind; 4] = [
    Kind::Deployment,
    Kind::DaemonSet,
    Kind::StatefulSet,
    Kind::Job,
];

/// What differs from pod to pod of one shape.
const FIELDS: [&str; 13] = [
    "NAME",
    "NAMESPACE",
    "UID",
    "VERSION",
    "APP",
    "HASH",
    "OWNERUID",
    "ORDINAL",
    "DIGEST",
    "CONTAINER",
    "NODE",
    "ADDRESS",
    "AT",
];

enum Piece {
    Text(String),
    Field(usize),
}

/// All pods of a cluster.
pub struct Population {
    /// How many there are.
    pub count: usize,
    /// By kind, state and the number of containers.
    shapes: Vec<Vec<Piece>>,
}

impl Population {
    /// A cluster of `count` pods.
    pub fn new(count: usize) -> Self {
        let mut shapes = vec![];
        for kind in KINDS {
            for state in STATES {
                for sidecar in [false, true] {
                    shapes.push(cut(&shape(kind, state, sidecar).to_string()));
                }
            }
        }
        Self { count, shapes }
    }

    /// How many workloads there are.
    pub fn workloads(&self) -> usize {
        self.count.div_ceil(PER_WORKLOAD)
    }

    /// How many namespaces there are.
    pub fn namespaces(&self) -> usize {
        self.workloads().div_ceil(PER_NAMESPACE)
    }

    /// The kind of a workload.
    pub fn kind(workload: usize) -> Kind {
        match workload % 50 {
            0..40 => Kind::Deployment,
            40..45 => Kind::DaemonSet,
            45..48 => Kind::StatefulSet,
            _ => Kind::Job,
        }
    }

    /// The pod of a Deployment nearest to `number`.
    pub fn deployed(&self, number: usize) -> usize {
        let mut number = number % self.count;
        while Self::kind(number / PER_WORKLOAD) != Kind::Deployment {
            number = (number + PER_WORKLOAD) % self.count;
        }
        number
    }

    /// Writes the JSON of a pod.
    pub fn write(
        &self,
        to: &mut String,
        number: usize,
        incarnation: u32,
        state: State,
        version: u64,
    ) {
        let workload = number / PER_WORKLOAD;
        let kind = Self::kind(workload);
        let sidecar = workload.is_multiple_of(5);
        let shape = (kind as usize * STATES.len() + state as usize) * 2 + usize::from(sidecar);
        let id = mix((number as u64) << 20 | u64::from(incarnation));
        let (app, hash) = (app(workload), word(mix(workload as u64), 10));
        let ordinal = number % PER_WORKLOAD;
        let name = match kind {
            Kind::Deployment => format!("{app}-{hash}-{}", word(id, 5)),
            Kind::StatefulSet => format!("{app}-{ordinal}"),
            Kind::DaemonSet | Kind::Job => format!("{app}-{}", word(id, 5)),
        };
        for piece in &self.shapes[shape] {
            let field = match piece {
                Piece::Text(text) => {
                    to.push_str(text);
                    continue;
                }
                Piece::Field(field) => *field,
            };
            // Writing to a string does not fail.
            let _ = match field {
                0 => write!(to, "{name}"),
                1 => write!(to, "{}", namespace(workload)),
                2 => write!(to, "{}", uuid(id)),
                3 => write!(to, "{version}"),
                4 => write!(to, "{app}"),
                5 => write!(to, "{hash}"),
                6 => write!(to, "{}", uuid(mix(workload as u64 ^ 0xa5a5))),
                7 => write!(to, "{ordinal}"),
                8 => write!(to, "{}", digest(workload as u64)),
                9 => write!(to, "{}", digest(id)),
                10 => write!(to, "{}", number % 250),
                11 => write!(to, "{}", number % 200),
                _ => write!(to, "@"),
            };
        }
    }
}

/// What makes a pod large, as much as `bytes` in all, and behind which text of its JSON it belongs: a long argument, many
/// labels, many containers that have never run, and many that run. No two pods have any of these texts in common.
pub fn large_parts(number: usize, bytes: usize) -> [(&'static str, String); 4] {
    let fill = |each: &dyn Fn(usize) -> String| {
        let mut text = String::new();
        for part in 0.. {
            if text.len() > bytes / 5 {
                break;
            }
            text.push_str(&each(part));
        }
        text
    };
    let image = |part: usize| format!("registry.example.com/{number}/{part}/{}", "x".repeat(150));
    let labels = fill(&|part| format!(r#""l{part}":"{number}-{}","#, "x".repeat(40)));
    let never = fill(&|part| format!(r#"{{"name":"never-{part}","image":"{}"}},"#, image(part)));
    let running = fill(&|part| format!(r#"{{"name":"runs-{part}","image":"{}"}},"#, image(part)));
    let statuses = fill(&|part| {
        let (image, digest) = (image(part), digest((number << 20 | part) as u64));
        format!(
            r#"{{"name":"runs-{part}","imageID":"{image}@sha256:{digest}","containerID":"containerd://{number}-{part}","state":{{"running":{{}}}}}},"#
        )
    });
    let script = format!(r#""args":["{}"],"#, "x".repeat(bytes / 5));
    [
        (r#""containers":[{"#, script),
        (r#""containers":["#, never + &running),
        (r#""containerStatuses":["#, statuses),
        (r#""labels":{"#, labels),
    ]
}

/// The name of a workload's namespace.
pub fn namespace(workload: usize) -> String {
    namespace_name(workload / PER_NAMESPACE)
}

/// The name of a namespace.
pub fn namespace_name(number: usize) -> String {
    format!("team-{number:04}")
}

/// The name of a workload.
pub fn app(workload: usize) -> String {
    const WORDS: [&str; 8] = [
        "checkout",
        "inventory",
        "payments",
        "search",
        "frontend",
        "recommendation",
        "gateway",
        "ledger",
    ];
    format!("{}-{workload:05}", WORDS[workload % WORDS.len()])
}

/// The JSON of a workload's Deployment.
pub fn deployment(workload: usize) -> String {
    let name = app(workload);
    json!({
        "metadata": {
            "name": name, "namespace": namespace(workload), "uid": uuid(mix(workload as u64 ^ 0x77)),
            "resourceVersion": "900000", "generation": 3, "creationTimestamp": "2026-01-05T10:00:00Z",
            "labels": {"app.kubernetes.io/name": name}, "annotations": {"deployment.kubernetes.io/revision": "3"},
        },
        "spec": {
            "replicas": PER_WORKLOAD, "selector": {"matchLabels": {"app.kubernetes.io/name": name}},
            "template": {"metadata": {"labels": {"app.kubernetes.io/name": name}}, "spec": spec(Kind::Deployment, true, false)},
        },
        "status": {
            "observedGeneration": 3, "replicas": PER_WORKLOAD, "updatedReplicas": PER_WORKLOAD,
            "readyReplicas": PER_WORKLOAD, "availableReplicas": PER_WORKLOAD,
            "conditions": [
                {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable", "lastTransitionTime": "2026-01-05T10:00:00Z"},
                {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable", "lastTransitionTime": "2026-01-05T10:00:00Z"},
            ],
        },
    })
    .to_string()
}

fn cut(template: &str) -> Vec<Piece> {
    let parts = template.split('@').enumerate();
    let pieces = parts.map(|(position, part)| {
        if position.is_multiple_of(2) {
            return Piece::Text(part.to_owned());
        }
        let field = FIELDS.iter().position(|field| *field == part);
        Piece::Field(field.unwrap_or_else(|| panic!("no field, so write @AT@ before {part}")))
    });
    pieces.collect()
}

fn spec(kind: Kind, sidecar: bool, scheduled: bool) -> Value {
    let container = |name: &str, image: &str, port: u16| {
        let env = |name: &str, value: &str| json!({"name": name, "value": value});
        json!({
            "name": name, "image": image, "imagePullPolicy": "IfNotPresent",
            "env": [
                env("LOG_LEVEL", "info"), env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel-collector.monitoring:4317"),
                env("DATABASE_HOST", "postgres-primary.databases.svc.cluster.local"),
                {"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
            ],
            "ports": [{"name": "http", "containerPort": port, "protocol": "TCP"}],
            "livenessProbe": {"httpGet": {"path": "/livez", "port": "http", "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3},
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http", "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3},
            "resources": {"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "256Mi"}},
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "volumeMounts": [
                {"mountPath": "/etc/config", "name": "config"}, {"mountPath": "/tmp", "name": "tmp"},
                {"mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "name": "kube-api-access-x7k2p", "readOnly": true},
            ],
        })
    };
    let mut containers = vec![container(
        "app",
        "registry.example.com/shop/@APP@:v1.27.3",
        8080,
    )];
    if sidecar {
        containers.push(container(
            "proxy",
            "registry.example.com/mesh/proxy:1.24.1",
            15090,
        ));
    }
    let mut spec = json!({
        "containers": containers, "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority",
        "priority": 0, "restartPolicy": if kind == Kind::Job { "Never" } else { "Always" }, "schedulerName": "default-scheduler",
        "securityContext": {"fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}}, "serviceAccount": "@APP@", "serviceAccountName": "@APP@",
        "terminationGracePeriodSeconds": 30,
        "tolerations": [
            {"effect": "NoExecute", "key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 300},
            {"effect": "NoExecute", "key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 300},
        ],
        "volumes": [
            {"name": "config", "configMap": {"name": "@APP@", "defaultMode": 420}}, {"name": "tmp", "emptyDir": {}},
            {"name": "kube-api-access-x7k2p", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ]}},
        ],
    });
    if scheduled {
        spec["nodeName"] = json!("node-@NODE@.eu-central-1.compute.internal");
    }
    spec
}

fn status(state: State, sidecar: bool) -> Value {
    let time = "2026-07-14T08:15:30Z";
    let container = |name: &str, image: &str, id: &str| {
        let started = state >= State::Running;
        let now = match state {
            State::Ended => {
                json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": time, "finishedAt": time, "containerID": id}})
            }
            _ if started => json!({"running": {"startedAt": time}}),
            _ => json!({"waiting": {"reason": "ContainerCreating"}}),
        };
        json!({
            "name": name, "image": image, "imageID": if started { format!("{}@AT@sha256:@DIGEST@", image.split(':').next().unwrap_or(image)) } else { String::new() },
            "containerID": if started { id } else { "" }, "lastState": {}, "ready": matches!(state, State::Ready | State::Deleting),
            "restartCount": 0, "started": started && state != State::Ended, "state": now,
            "resources": {"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "256Mi"}},
            "allocatedResources": {"cpu": "100m", "memory": "256Mi"},
        })
    };
    let condition = |kind: &str, so: bool| json!({"type": kind, "status": if so { "True" } else { "False" }, "lastProbeTime": null, "lastTransitionTime": time, "observedGeneration": 1});
    let ready = matches!(state, State::Ready | State::Deleting);
    let phase = if state < State::Running {
        "Pending"
    } else {
        "Running"
    };
    let mut status = json!({"phase": phase, "qosClass": "Burstable", "observedGeneration": 1});
    if state >= State::Scheduled {
        status["conditions"] = json!([
            condition("PodReadyToStartContainers", state >= State::Creating),
            condition("Initialized", true),
            condition("Ready", ready),
            condition("ContainersReady", ready),
            condition("PodScheduled", true),
        ]);
    }
    if state >= State::Creating {
        let mut containers = vec![container(
            "app",
            "registry.example.com/shop/@APP@:v1.27.3",
            "containerd://@CONTAINER@",
        )];
        if sidecar {
            let mut proxy = container(
                "proxy",
                "registry.example.com/mesh/proxy:1.24.1",
                "containerd://f@CONTAINER@",
            );
            if proxy["imageID"] != "" {
                proxy["imageID"] = format!(
                    "registry.example.com/mesh/proxy@AT@sha256:{}",
                    digest(0xbeef)
                )
                .into();
            }
            containers.push(proxy);
        }
        status["containerStatuses"] = containers.into();
        status["hostIP"] = "10.0.3.17".into();
        status["hostIPs"] = json!([{"ip": "10.0.3.17"}]);
        status["podIP"] = "10.42.7.@ADDRESS@".into();
        status["podIPs"] = json!([{"ip": "10.42.7.@ADDRESS@"}]);
        status["startTime"] = time.into();
    }
    status
}

/// The owner of fields: every field of `value` as `f:` of an empty object, as the API server writes it.
fn fields(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let inner = map
                .iter()
                .map(|(key, value)| (format!("f:{key}"), fields(value)));
            Value::Object(inner.collect())
        }
        Value::Array(items) => {
            let keyed = items.iter().filter_map(|item| {
                let key = ["name", "type", "mountPath", "containerPort", "ip"]
                    .iter()
                    .find(|key| item.get(**key).is_some())?;
                let mut owned = fields(item);
                owned[".".to_owned()] = json!({});
                Some((format!("k:{}", json!({*key: item[*key]})), owned))
            });
            let mut keyed: serde_json::Map<_, _> = keyed.collect();
            if !keyed.is_empty() {
                keyed.insert(".".to_owned(), json!({}));
            }
            Value::Object(keyed)
        }
        _ => json!({}),
    }
}

fn shape(kind: Kind, state: State, sidecar: bool) -> Value {
    let (owner, version, owner_name) = match kind {
        Kind::Deployment => ("ReplicaSet", "apps/v1", "@APP@-@HASH@"),
        Kind::DaemonSet => ("DaemonSet", "apps/v1", "@APP@"),
        Kind::StatefulSet => ("StatefulSet", "apps/v1", "@APP@"),
        Kind::Job => ("Job", "batch/v1", "@APP@"),
    };
    let mut labels = json!({
        "app.kubernetes.io/name": "@APP@", "app.kubernetes.io/instance": "@APP@-prod", "app.kubernetes.io/version": "v1.27.3",
        "app.kubernetes.io/managed-by": "Helm", "team": "@NAMESPACE@",
    });
    match kind {
        Kind::Deployment => labels["pod-template-hash"] = "@HASH@".into(),
        Kind::DaemonSet => {
            labels["controller-revision-hash"] = "@HASH@".into();
            labels["pod-template-generation"] = "3".into();
        }
        Kind::StatefulSet => {
            labels["controller-revision-hash"] = "@APP@-@HASH@".into();
            labels["statefulset.kubernetes.io/pod-name"] = "@NAME@".into();
            labels["apps.kubernetes.io/pod-index"] = "@ORDINAL@".into();
        }
        Kind::Job => {
            for key in ["batch.kubernetes.io/job-name", "job-name"] {
                labels[key] = "@APP@".into();
            }
            for key in ["batch.kubernetes.io/controller-uid", "controller-uid"] {
                labels[key] = "@OWNERUID@".into();
            }
        }
    }
    let (spec, status) = (
        spec(kind, sidecar, state >= State::Scheduled),
        status(state, sidecar),
    );
    let mut made = json!({
        "f:metadata": {"f:annotations": {".": {}, "f:checksum/config": {}}, "f:generateName": {}, "f:labels": fields(&labels), "f:ownerReferences": {".": {}, "k:{\"uid\":\"@OWNERUID@\"}": {}}},
        "f:spec": fields(&spec),
    });
    made["f:spec"]
        .as_object_mut()
        .map(|spec| spec.remove("f:priority"));
    let mut entries = vec![
        json!({"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1", "time": "2026-07-14T08:15:00Z", "fieldsType": "FieldsV1", "fieldsV1": made}),
    ];
    if state >= State::Creating {
        entries.push(json!({"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "time": "2026-07-14T08:15:30Z", "subresource": "status", "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {
            "f:conditions": fields(&status["conditions"]), "f:containerStatuses": {}, "f:hostIP": {}, "f:hostIPs": {}, "f:observedGeneration": {}, "f:phase": {}, "f:podIP": {},
            "f:podIPs": fields(&status["podIPs"]), "f:startTime": {},
        }}}));
    }
    let mut metadata = json!({
        "name": "@NAME@", "generateName": "@APP@-@HASH@-", "namespace": "@NAMESPACE@", "uid": "@UID@", "resourceVersion": "@VERSION@",
        "generation": 1, "creationTimestamp": "2026-07-14T08:15:00Z", "labels": labels,
        "annotations": {"checksum/config": "8d1d7a5d0c6e4ae5b7a8f7a5b9e4f6d98d1d7a5d0c6e4ae5b7a8f7a5b9e4f6d9", "prometheus.io/scrape": "true"},
        "ownerReferences": [{"apiVersion": version, "kind": owner, "name": owner_name, "uid": "@OWNERUID@", "controller": true, "blockOwnerDeletion": true}],
        "managedFields": entries,
    });
    if state >= State::Deleting {
        metadata["deletionTimestamp"] = "2026-07-14T09:15:00Z".into();
        metadata["deletionGracePeriodSeconds"] = 30.into();
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status})
}

/// A number that looks like any other, always the same for the same one (splitmix64).
pub fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A random word in the alphabet of Kubernetes' names.
fn word(mut number: u64, length: usize) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let letters = (0..length).map(|_| {
        let letter = LETTERS[usize::try_from(number % 27).unwrap_or(0)];
        number /= 27;
        char::from(letter)
    });
    letters.collect()
}

/// A UUID.
pub fn uuid(number: u64) -> String {
    let other = mix(number);
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        number >> 32,
        number >> 16 & 0xffff,
        number & 0xfff,
        other >> 48 & 0xfff,
        other & 0xffff_ffff_ffff
    )
}

/// 64 hex digits.
pub fn digest(number: u64) -> String {
    let mut text = String::with_capacity(64);
    for part in 0..4 {
        let _ = write!(text, "{:016x}", mix(mix(number) + part));
    }
    text
}
