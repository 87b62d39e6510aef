//! Decides which pods belong to an environment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    api::{EnvironmentSpec, selector::Selector},
    cluster::workload::RUN_TO_COMPLETION,
};

/// Labels of a pod or a namespace.
pub type Labels = BTreeMap<String, String>;

/// The scope of an environment with its defaults resolved. It is kept in the log, so that an edit is noticed and
/// a later release with other defaults is, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scope {
    /// Names or globs of namespaces, of which one must match.
    pub include: Vec<String>,
    /// Names or globs of namespaces that are left out.
    pub exclude: Vec<String>,
    /// What the namespace's labels must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,
    /// What the pod's labels must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<Selector>,
    /// Kinds of owners that are left out, as `Kind.group`.
    pub exclude_owners: Vec<String>,
}

impl Scope {
    /// The scope of an environment.
    pub fn of(spec: &EnvironmentSpec) -> Self {
        let sorted = |list: Option<&Vec<String>>, default: &[&str]| {
            let default = || default.iter().map(|it| (*it).to_owned()).collect();
            let mut list: Vec<String> = list.cloned().unwrap_or_else(default);
            list.sort_unstable();
            list
        };
        let namespaces = spec.namespaces.as_ref();
        Self {
            include: sorted(namespaces.and_then(|n| n.include.as_ref()), &["*"]),
            exclude: sorted(namespaces.and_then(|n| n.exclude.as_ref()), &["kube-*"]),
            namespace_selector: spec.namespace_selector.clone(),
            pod_selector: spec.pod_selector.clone(),
            exclude_owners: sorted(spec.exclude.as_ref(), &["Job.batch", RUN_TO_COMPLETION]),
        }
    }

    /// Whether the labels of namespaces are needed.
    pub fn needs_namespaces(&self) -> bool {
        self.namespace_selector.is_some()
    }

    /// Whether pods with these owners are left out when instances are counted. That decides about nothing else: whoever may
    /// create pods may name any owner. `owners`: their kinds, the nearest first (`ReplicaSet.apps`, `Deployment.apps`);
    /// `Pod` for a pod without an owner, `RunToCompletion` too for one that runs to completion.
    pub fn counts(&self, owners: &[&str]) -> bool {
        let excluded = |owner: &&str| self.exclude_owners.iter().any(|it| it == owner);
        !owners.iter().any(excluded)
    }

    /// Whether a pod belongs to the scope.
    pub fn admits(
        &self,
        namespace: &str,
        namespace_labels: Option<&Labels>,
        labels: &Labels,
    ) -> bool {
        self.include.iter().any(|glob| matches(glob, namespace))
            && !self.exclude.iter().any(|glob| matches(glob, namespace))
            && self
                .namespace_selector
                .as_ref()
                .is_none_or(|s| namespace_labels.is_some_and(|labels| s.matches(labels)))
            && self
                .pod_selector
                .as_ref()
                .is_none_or(|selector| selector.matches(labels))
    }
}

/// Whether `text` matches `glob`, in which `*` stands for any characters. Our own: it runs for every pod and allocates
/// nothing, and takes time linear in the text for each `*`.
pub fn matches(glob: &str, text: &str) -> bool {
    let Some((start, rest)) = glob.split_once('*') else {
        return glob == text;
    };
    let Some(mut text) = text.strip_prefix(start) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_matches_whole_names() {
        for (glob, text, want) in [
            ("shop", "shop", true),
            ("shop", "shop-2", false),
            ("*", "", true),
            ("kube-*", "kube-system", true),
            ("kube-*", "mykube-system", false),
            ("*-prod", "shop-prod", true),
            ("*-prod", "shop-prod-2", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXcYb", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(glob, text), want, "{glob} {text}");
        }
    }

    #[test]
    fn a_scope_is_its_spec_with_the_defaults_filled_in() {
        let scope = |yaml: &str| Scope::of(&serde_saphyr::from_str(yaml).unwrap());
        let labels = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect::<Labels>()
        };
        let (none, front) = (labels(&[]), labels(&[("tier", "front")]));
        let deployment = ["ReplicaSet.apps", "Deployment.apps"];
        let all = scope("{}");
        assert!(all.admits("shop", None, &none));
        assert!(
            !all.admits("kube-system", None, &none),
            "system namespaces are left out unless asked for"
        );
        assert!(all.counts(&deployment));
        let ends = ["Pod", "Pod", RUN_TO_COMPLETION];
        assert!(!all.counts(&ends), "nor are CI's pods");
        assert!(scope("exclude: []").counts(&ends));
        assert!(scope("exclude: [Job.batch]").counts(&ends));
        assert!(!all.counts(&["Job.batch"]), "Jobs are not counted");
        assert!(scope("exclude: []").counts(&["Job.batch"]));
        assert!(!scope("exclude: [Deployment.apps]").counts(&deployment));
        assert!(!scope("exclude: [Pod]").counts(&["Pod"]));
        assert!(scope("namespaces: {exclude: []}").admits("kube-system", None, &none));
        assert!(!scope("namespaces: {include: [shop-*]}").admits("blog", None, &none));
        assert!(scope("podSelector: {matchLabels: {tier: front}}").admits("shop", None, &front));
        assert!(!scope("podSelector: {matchLabels: {tier: front}}").admits("shop", None, &none));
        let by_label = scope("namespaceSelector: {matchLabels: {tier: front}}");
        assert!(by_label.admits("shop", Some(&front), &none));
        assert!(!by_label.admits("shop", Some(&none), &none));
        assert!(
            !by_label.admits("shop", None, &none),
            "a namespace that is not known yet is not in"
        );
    }
}
