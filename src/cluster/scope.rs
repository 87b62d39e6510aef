//! Decides which pods belong to an environment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::api::{EnvironmentSpec, selector::Selector};

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
        let sorted = |list: Option<&Vec<String>>, default: &str| {
            let mut list = list.cloned().unwrap_or_else(|| vec![default.to_owned()]);
            list.sort_unstable();
            list
        };
        let namespaces = spec.namespaces.as_ref();
        Self {
            include: sorted(namespaces.and_then(|n| n.include.as_ref()), "*"),
            exclude: sorted(namespaces.and_then(|n| n.exclude.as_ref()), "kube-*"),
            namespace_selector: spec.namespace_selector.clone(),
            pod_selector: spec.pod_selector.clone(),
            exclude_owners: sorted(spec.exclude.as_ref(), "Job.batch"),
        }
    }

    /// Whether the labels of namespaces are needed.
    pub fn needs_namespaces(&self) -> bool {
        self.namespace_selector.is_some()
    }

    /// Whether pods of a namespace may belong to the scope.
    pub fn admits_namespace(&self, namespace: &str, labels: Option<&Labels>) -> bool {
        self.include.iter().any(|glob| matches(glob, namespace))
            && !self.exclude.iter().any(|glob| matches(glob, namespace))
            && self
                .namespace_selector
                .as_ref()
                .is_none_or(|s| labels.is_some_and(|labels| s.matches(labels)))
    }

    /// Whether a pod belongs to the scope. `owners`: the kinds of its owners, the nearest first (`ReplicaSet.apps`,
    /// `Deployment.apps`); `Pod` for a pod without an owner.
    pub fn admits(
        &self,
        namespace: &str,
        namespace_labels: Option<&Labels>,
        labels: &Labels,
        owners: &[&str],
    ) -> bool {
        self.admits_namespace(namespace, namespace_labels) && self.admits_pod(labels, owners)
    }

    /// Whether a pod belongs to the scope if its namespace does.
    pub fn admits_pod(&self, labels: &Labels, owners: &[&str]) -> bool {
        !owners
            .iter()
            .any(|owner| self.exclude_owners.iter().any(|excluded| excluded == owner))
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
        assert!(all.admits("shop", None, &none, &deployment));
        assert!(
            !all.admits("kube-system", None, &none, &deployment),
            "system namespaces are left out unless asked for"
        );
        assert!(
            !all.admits("shop", None, &none, &["Job.batch"]),
            "so are Jobs"
        );
        assert!(scope("exclude: []").admits("shop", None, &none, &["Job.batch"]));
        assert!(!scope("exclude: [Deployment.apps]").admits("shop", None, &none, &deployment));
        assert!(!scope("exclude: [Pod]").admits("shop", None, &none, &["Pod"]));
        assert!(scope("namespaces: {exclude: []}").admits("kube-system", None, &none, &deployment));
        assert!(!scope("namespaces: {include: [shop-*]}").admits("blog", None, &none, &deployment));
        assert!(scope("podSelector: {matchLabels: {tier: front}}").admits(
            "shop",
            None,
            &front,
            &deployment
        ));
        assert!(!scope("podSelector: {matchLabels: {tier: front}}").admits(
            "shop",
            None,
            &none,
            &deployment
        ));
        let by_label = scope("namespaceSelector: {matchLabels: {tier: front}}");
        assert!(by_label.admits("shop", Some(&front), &none, &deployment));
        assert!(!by_label.admits("shop", Some(&none), &none, &deployment));
        assert!(
            !by_label.admits("shop", None, &none, &deployment),
            "a namespace that is not known yet is not in"
        );
    }
}
