//! Tells to which workload a pod belongs and which revision of it made the pod. The workload is the topmost controller that
//! the pod names by its owner and its labels: no other object is read, so no further rights are needed, and whoever rolls
//! out, it is one workload with several revisions.

use std::collections::BTreeMap;

type Labels = BTreeMap<String, String>;

/// The kind of a workload that is a Deployment.
pub(crate) const DEPLOYMENT: &str = "Deployment";

/// The label of the pods of a ReplicaSet that a controller made for one revision: the ReplicaSet has the name of the
/// controller and this hash. With the kind of the controller.
const HASH_LABELS: [(&str, &str); 2] = [
    ("pod-template-hash", DEPLOYMENT),
    ("rollouts-pod-template-hash", "Rollout"),
];
/// The label with the revision of pods whose controller owns them itself: StatefulSet, DaemonSet, CloneSet and others.
const REVISION_LABEL: &str = "controller-revision-hash";
/// The label of the pods of an OpenShift DeploymentConfig.
const DEPLOYMENT_CONFIG_LABEL: &str = "deploymentconfig";
/// The label of the pods of a LeaderWorkerSet, which belong to several StatefulSets.
const LEADER_WORKER_SET_LABEL: &str = "leaderworkerset.sigs.k8s.io/name";
/// The label with their revision. Those of the StatefulSets differ from one to the other.
const LEADER_WORKER_SET_REVISION: &str = "leaderworkerset.sigs.k8s.io/template-revision-hash";

/// Controllers that own no pods themselves, with their groups.
const ABOVE: [(&str, &str); 4] = [
    (DEPLOYMENT, "Deployment.apps"),
    ("Rollout", "Rollout.argoproj.io"),
    ("DeploymentConfig", "DeploymentConfig.apps.openshift.io"),
    (
        "LeaderWorkerSet",
        "LeaderWorkerSet.leaderworkerset.x-k8s.io",
    ),
];

/// What `spec.exclude` of an Environment calls pods that run to completion, whoever owns them.
pub(crate) const RUN_TO_COMPLETION: &str = "RunToCompletion";

/// How the kinds of controllers end whose pods run to completion: Job, PyTorchJob, TaskRun, EphemeralRunner, Workflow, Build,
/// SparkApplication, and pods that start pods. Other controllers replace a pod that has ended, for example
/// VirtualMachineInstance.
const TO_COMPLETION: [&str; 8] = [
    "Job",
    "Run",
    "Runner",
    "Workflow",
    "Task",
    "Build",
    "Application",
    "Pod",
];

/// Which workload a pod belongs to, and which revision of it made the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkloadIdentity<'a> {
    /// The kind, without the group.
    pub(crate) kind: &'a str,
    pub(crate) name: &'a str,
    /// Empty if the workload has no revisions.
    pub(crate) revision: &'a str,
}

/// The workload of a pod with this name, whose controlling owner has this kind and name.
pub(crate) fn identify<'a>(
    pod: &'a str,
    owner: Option<(&'a str, &'a str)>,
    labels: &'a Labels,
) -> WorkloadIdentity<'a> {
    let label = |key: &str| labels.get(key).map(String::as_str);
    let Some((owner_kind, owner)) = owner else {
        return WorkloadIdentity {
            kind: "Pod",
            name: pod,
            revision: revision(labels),
        };
    };
    let above = match owner_kind {
        "ReplicaSet.apps" => of_replica_set(owner, labels),
        "ReplicationController" => label(DEPLOYMENT_CONFIG_LABEL)
            .filter(|config| is_numbered(owner, config))
            .map(|name| WorkloadIdentity {
                kind: "DeploymentConfig",
                name,
                revision: owner,
            }),
        "StatefulSet.apps" => label(LEADER_WORKER_SET_LABEL)
            .filter(|set| owner == *set || is_numbered(owner, set))
            .map(|name| WorkloadIdentity {
                kind: "LeaderWorkerSet",
                name,
                revision: label(LEADER_WORKER_SET_REVISION).unwrap_or_default(),
            }),
        _ => None,
    };
    above.unwrap_or_else(|| WorkloadIdentity {
        kind: without_group(owner_kind),
        name: owner,
        revision: revision(labels),
    })
}

/// The controller above a ReplicaSet whose name ends in the hash that its pods have as a label. If the label is not that of
/// a controller that we know, the kind stays that of the ReplicaSet.
fn of_replica_set<'a>(set: &'a str, labels: &'a Labels) -> Option<WorkloadIdentity<'a>> {
    let mut hashes = labels
        .iter()
        .filter(|(key, _)| key.ends_with("pod-template-hash"));
    hashes.find_map(|(key, hash)| {
        let name = set.strip_suffix(hash.as_str())?.strip_suffix('-')?;
        let known = HASH_LABELS.iter().find(|(label, _)| label == key);
        let identity = WorkloadIdentity {
            kind: known.map_or("ReplicaSet", |(_, kind)| kind),
            name,
            revision: hash,
        };
        (!name.is_empty() && !hash.is_empty()).then_some(identity)
    })
}

/// Whether a name is another one with a hyphen and a number.
fn is_numbered(name: &str, base: &str) -> bool {
    let number = name
        .strip_prefix(base)
        .and_then(|rest| rest.strip_prefix('-'));
    !base.is_empty()
        && number.is_some_and(|number| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        })
}

/// Whether a label may decide to which workload or revision a pod belongs.
pub fn identifies(key: &str) -> bool {
    [
        REVISION_LABEL,
        DEPLOYMENT_CONFIG_LABEL,
        LEADER_WORKER_SET_LABEL,
    ]
    .contains(&key)
        || key.starts_with("leaderworkerset.sigs.k8s.io/")
        || key.ends_with("pod-template-hash")
}

fn revision(labels: &Labels) -> &str {
    let hashes = HASH_LABELS.iter().map(|(label, _)| *label);
    let mut keys = [REVISION_LABEL].into_iter().chain(hashes);
    keys.find_map(|key| labels.get(key))
        .map_or("", String::as_str)
}

fn without_group(kind: &str) -> &str {
    kind.split_once('.').map_or(kind, |(kind, _)| kind)
}

/// The kind of a workload with its group, if its pods are owned by something below it. `owner`: the kind of that.
pub(crate) fn kind_above(workload: &str, owner: &str) -> Option<&'static str> {
    let mut above = ABOVE.iter();
    let above = above.find(|(kind, _)| *kind == workload)?;
    (without_group(owner) != workload).then_some(above.1)
}

/// Whether a pod runs to completion: it isn't started again after it has succeeded, and nothing replaces it. A pod with
/// `restartPolicy: Always` never does. `owner`: the kind of its controlling owner.
pub(crate) fn runs_to_completion(restart_policy: &str, owner: Option<&str>) -> bool {
    let ends = |owner: &str| {
        let kind = without_group(owner);
        TO_COMPLETION.iter().any(|end| kind.ends_with(end))
    };
    restart_policy != "Always" && owner.is_none_or(ends)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(labels: &[(&str, &str)]) -> Labels {
        let labels = labels.iter();
        labels
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn the_workload_is_the_topmost_controller_that_a_pod_names() {
        let lws = LEADER_WORKER_SET_LABEL;
        for (owner, given, want) in [
            (None, &[][..], ("Pod", "one", "")),
            (
                Some(("ReplicaSet.apps", "web-7c9f6d5b8")),
                &[("pod-template-hash", "7c9f6d5b8")][..],
                ("Deployment", "web", "7c9f6d5b8"),
            ),
            (
                Some(("ReplicaSet.apps", "web-687d76d795")),
                &[("rollouts-pod-template-hash", "687d76d795")],
                ("Rollout", "web", "687d76d795"),
            ),
            (
                Some(("ReplicaSet.apps", "web-abc")),
                &[("example.com/pod-template-hash", "abc")],
                ("ReplicaSet", "web", "abc"),
            ),
            // A ReplicaSet that somebody made by hand, whatever labels its pods have.
            (
                Some(("ReplicaSet.apps", "web")),
                &[("pod-template-hash", "abc")],
                ("ReplicaSet", "web", "abc"),
            ),
            (
                Some(("ReplicaSet.apps", "abc")),
                &[("pod-template-hash", "abc")],
                ("ReplicaSet", "abc", "abc"),
            ),
            (
                Some(("ReplicaSet.apps", "web-")),
                &[("pod-template-hash", "")],
                ("ReplicaSet", "web-", ""),
            ),
            // The hash is that of apps alone.
            (
                Some(("ReplicaSet.example.com", "web-abc")),
                &[("pod-template-hash", "abc")],
                ("ReplicaSet", "web-abc", "abc"),
            ),
            (
                Some(("ReplicationController", "web-3")),
                &[("deploymentconfig", "web"), ("deployment", "web-3")],
                ("DeploymentConfig", "web", "web-3"),
            ),
            (
                Some(("ReplicationController", "web-3")),
                &[("deployment", "web-3")],
                ("ReplicationController", "web-3", ""),
            ),
            (
                Some(("ReplicationController", "web-api-3")),
                &[("deploymentconfig", "web")],
                ("ReplicationController", "web-api-3", ""),
            ),
            (
                Some(("StatefulSet.apps", "llm")),
                &[
                    (lws, "llm"),
                    (LEADER_WORKER_SET_REVISION, "r1"),
                    (REVISION_LABEL, "llm-55"),
                ],
                ("LeaderWorkerSet", "llm", "r1"),
            ),
            (
                Some(("StatefulSet.apps", "llm-0")),
                &[
                    (lws, "llm"),
                    (LEADER_WORKER_SET_REVISION, "r1"),
                    (REVISION_LABEL, "llm-0-66"),
                ],
                ("LeaderWorkerSet", "llm", "r1"),
            ),
            // Without its revision it has none: those of the StatefulSets would look like a rollout that never ends.
            (
                Some(("StatefulSet.apps", "llm-0")),
                &[(lws, "llm"), (REVISION_LABEL, "llm-0-66")],
                ("LeaderWorkerSet", "llm", ""),
            ),
            (
                Some(("StatefulSet.apps", "db")),
                &[(lws, "llm"), (REVISION_LABEL, "db-66")],
                ("StatefulSet", "db", "db-66"),
            ),
            (
                Some(("CloneSet.apps.kruise.io", "web")),
                &[(REVISION_LABEL, "web-1"), ("pod-template-hash", "1")],
                ("CloneSet", "web", "web-1"),
            ),
            (
                Some(("VirtualMachineInstance.kubevirt.io", "vm-1")),
                &[],
                ("VirtualMachineInstance", "vm-1", ""),
            ),
        ] {
            let labels = labels(given);
            let WorkloadIdentity {
                kind,
                name,
                revision,
            } = identify("one", owner, &labels);
            assert_eq!((kind, name, revision), want, "{owner:?} {given:?}");
        }
    }

    #[test]
    fn a_pod_runs_to_completion_unless_it_is_started_again_or_replaced() {
        for (policy, owner, want) in [
            ("Always", None, false),
            ("Never", None, true),
            ("OnFailure", None, true),
            ("Always", Some("TaskRun.tekton.dev"), false),
            ("Never", Some("TaskRun.tekton.dev"), true),
            ("Never", Some("Workflow.argoproj.io"), true),
            ("Never", Some("EphemeralRunner.actions.github.com"), true),
            ("OnFailure", Some("Job.batch"), true),
            ("Never", Some("PyTorchJob.kubeflow.org"), true),
            ("Never", Some("Build.build.openshift.io"), true),
            ("Never", Some("SparkApplication.sparkoperator.k8s.io"), true),
            ("Never", Some("Pod"), true),
            ("Never", Some("VirtualMachineInstance.kubevirt.io"), false),
            ("Never", Some("RayCluster.ray.io"), false),
            ("Never", Some("Node"), false),
        ] {
            let found = runs_to_completion(policy, owner);
            assert_eq!(found, want, "{policy} {owner:?}");
        }
    }

    proptest! {
        #![proptest_config(crate::simulation::testing::reader_tries())]

        #[test]
        fn every_pod_has_a_workload_with_a_kind(
            kind in "(ReplicaSet.apps|ReplicationController|StatefulSet.apps|[A-Z][a-z]{0,3}([.][a-z]{0,3})?)",
            owner in "[a-z0-9-]{0,6}",
            labels in prop::collection::btree_map(
                "(pod-template-hash|rollouts-pod-template-hash|deploymentconfig|leaderworkerset.sigs.k8s.io/name)",
                "[a-z0-9-]{0,4}",
                0..4,
            ),
        ) {
            let found = identify("one", Some((&kind, &owner)), &labels);
            prop_assert!(!found.kind.is_empty());
            prop_assert!(owner.starts_with(found.name), "{found:?}");
        }
    }
}
