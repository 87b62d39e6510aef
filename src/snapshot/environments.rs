//! The existing environments, who may see them, and where their logs end.

use std::{collections::BTreeMap, sync::Arc};

use crate::api::environment::EnvironmentId;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

/// An environment, as delivery sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentInfo {
    pub uid: String,
    /// The generation of its spec.
    pub generation: i64,
    pub(crate) created: Option<Timestamp>,
    /// The namespaces that may see it; `*` means all.
    pub visible_to: Vec<String>,
    /// The index and the time of its newest snapshot, once its log has been read.
    pub head: Option<(i64, Timestamp)>,
}

impl EnvironmentInfo {
    pub(crate) fn id(&self, name: &str) -> EnvironmentId {
        EnvironmentId::new(name, &self.uid)
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
    /// Shared: every setting reads all of it whenever anything changes.
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

    /// Forgets where the logs end: they were set back, and delivery starts again.
    pub(crate) fn set_back(&self) {
        for known in Arc::make_mut(&mut self.known.lock()).values_mut() {
            known.head = None;
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
            let before = all.get(name);
            if let Some(before) = before.filter(|before| before.uid == known.uid) {
                known.head = known.head.max(before.head);
            }
            let changed = before != Some(&known);
            if changed {
                Arc::make_mut(&mut all).insert(name.to_owned(), known);
            }
            changed
        };
        if changed {
            self.bump();
        }
    }

    pub(crate) fn set_head(&self, environment: &EnvironmentId, head: (i64, Timestamp)) {
        let changed = {
            let mut all = self.known.lock();
            let EnvironmentId { name, uid } = environment;
            let news = all
                .get(name)
                .is_some_and(|known| known.uid == *uid && known.head != Some(head));
            if news && let Some(known) = Arc::make_mut(&mut all).get_mut(name) {
                known.head = Some(head);
            }
            news
        };
        if changed {
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
