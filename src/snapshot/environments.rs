//! The existing environments, who may see them, and where their logs end.

use std::{collections::BTreeMap, sync::Arc};

use crate::api::environment::EnvironmentId;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

/// The index and the time of the newest snapshot of an environment, once its log has been read. It is shared by all who
/// hold the environment's [`EnvironmentInfo`] and always the newest that is known: a log that grows changes nothing else.
#[derive(Clone, Debug, Default)]
pub struct Head(Arc<Mutex<Option<(i64, Timestamp)>>>);

impl Head {
    pub fn get(&self) -> Option<(i64, Timestamp)> {
        *self.0.lock()
    }

    /// Whether it is another one than before.
    pub(crate) fn set(&self, head: Option<(i64, Timestamp)>) -> bool {
        std::mem::replace(&mut *self.0.lock(), head) != head
    }

    /// Sets it if it is not known. Whether it was not.
    fn fill_in(&self, head: (i64, Timestamp)) -> bool {
        let mut known = self.0.lock();
        let news = known.is_none();
        known.get_or_insert(head);
        news
    }
}

/// An environment, as delivery sees it.
#[derive(Clone, Debug)]
pub struct EnvironmentInfo {
    pub uid: String,
    /// The generation of its spec.
    pub generation: i64,
    pub(crate) created: Option<Timestamp>,
    /// The namespaces that may see it; `*` means all.
    pub visible_to: Vec<String>,
    pub head: Head,
}

impl EnvironmentInfo {
    pub(crate) fn id(&self, name: &str) -> EnvironmentId {
        EnvironmentId::new(name, &self.uid)
    }

    /// Whether it is the same environment with the same spec.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.uid, self.generation, &self.visible_to)
            == (&other.uid, other.generation, &other.visible_to)
    }

    /// Whether settings of a namespace may see it.
    pub fn is_visible_to(&self, namespace: &str) -> bool {
        self.visible_to
            .iter()
            .any(|visible| visible == "*" || visible == namespace)
    }
}

/// All Environments that exist. The recorder keeps it up to date, and delivery and the read API read it.
#[derive(Debug)]
pub struct Environments {
    /// Shared with every setting. It is copied when an environment comes, goes or is edited, not when a log grows.
    known: Mutex<Arc<BTreeMap<String, EnvironmentInfo>>>,
    /// All of them have been listed.
    listed: watch::Sender<bool>,
    /// Counts all changes.
    version: watch::Sender<u64>,
    /// Counts how often the cluster's store was set back to an older state.
    set_backs: watch::Sender<u64>,
}

impl Default for Environments {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            listed: watch::Sender::new(false),
            version: watch::Sender::new(0),
            set_backs: watch::Sender::new(0),
        }
    }
}

impl Environments {
    /// Is notified of every change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Resolves when all environments have been listed once.
    pub async fn wait_listed(&self) {
        let mut listed = self.listed.subscribe();
        // The sender lives as long as `self`.
        let _ = listed.wait_for(|listed| *listed).await;
    }

    /// Whether all environments have been listed once.
    pub fn is_listed(&self) -> bool {
        *self.listed.borrow()
    }

    pub(crate) fn set_listed(&self) {
        self.listed.send_replace(true);
        self.bump();
    }

    /// Is notified when the cluster's store was set back.
    pub fn set_backs(&self) -> watch::Receiver<u64> {
        self.set_backs.subscribe()
    }

    /// Forgets where the logs end: they were set back, and delivery starts again. Whoever still holds a head of before
    /// changes nothing with it.
    pub(crate) fn set_back(&self) {
        for known in Arc::make_mut(&mut self.known.lock()).values_mut() {
            known.head = Head::default();
        }
        self.set_backs.send_modify(|count| *count += 1);
        self.bump();
    }

    fn bump(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Adds or updates an environment. Its head is kept while its UID stays the same.
    pub(crate) fn put(&self, name: &str, mut known: EnvironmentInfo) {
        let changed = {
            let mut all = self.known.lock();
            let before = all.get(name).filter(|before| before.uid == known.uid);
            if let Some(before) = before {
                known.head = before.head.clone();
            }
            let changed = before.is_none_or(|before| !before.is_same(&known));
            if changed {
                Arc::make_mut(&mut all).insert(name.to_owned(), known);
            }
            changed
        };
        if changed {
            self.bump();
        }
    }

    /// The recorder, which has read the log or appended to it, says where it ends.
    pub(crate) fn set_head(&self, environment: &EnvironmentId, head: (i64, Timestamp)) {
        let known = self.get(&environment.name);
        let known = known.filter(|known| known.uid == environment.uid);
        if known.is_some_and(|known| known.head.set(Some(head))) {
            self.bump();
        }
    }

    /// Someone has listed the log of an environment and found its end. The recorder knows better, and may have said so
    /// since; so may the store have been set back.
    pub(crate) fn found_head(&self, known: &EnvironmentInfo, head: (i64, Timestamp)) {
        if known.head.fill_in(head) {
            self.bump();
        }
    }

    pub(crate) fn remove(&self, name: &str) {
        Arc::make_mut(&mut self.known.lock()).remove(name);
        self.bump();
    }

    pub fn get(&self, name: &str) -> Option<EnvironmentInfo> {
        self.known.lock().get(name).cloned()
    }

    pub fn all(&self) -> Arc<BTreeMap<String, EnvironmentInfo>> {
        self.known.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(environments: &Environments, name: &str) -> Option<i64> {
        let head = environments.get(name).unwrap().head.get();
        head.map(|(index, _)| index)
    }

    #[test]
    fn what_a_list_that_began_earlier_has_found_never_sets_a_head_back() {
        let environments = Environments::default();
        let info = EnvironmentInfo {
            uid: "u".to_owned(),
            generation: 1,
            created: None,
            visible_to: vec![],
            head: Head::default(),
        };
        let id = info.id("prod");
        let at = |index| (index, Timestamp::from_second(index).unwrap());
        environments.put("prod", info.clone());
        let listing = environments.get("prod").unwrap();
        environments.set_head(&id, at(9));
        environments.found_head(&listing, at(4));
        assert_eq!(head(&environments, "prod"), Some(9));
        environments.put("prod", info);
        assert_eq!(head(&environments, "prod"), Some(9), "an edit keeps it");
        environments.set_head(&id, at(7)); // entries were removed by hand
        assert_eq!(head(&environments, "prod"), Some(7));
        // The store was set back while a log was listed.
        environments.set_back();
        environments.found_head(&listing, at(9));
        assert_eq!(head(&environments, "prod"), None);
        let listing = environments.get("prod").unwrap();
        environments.found_head(&listing, at(4));
        assert_eq!(head(&environments, "prod"), Some(4));
    }
}
