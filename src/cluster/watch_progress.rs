//! How far each watched kind has been read.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{cluster::pod_view::Meta, time::Moment};

/// How long a stream may be silent before it counts as dead: the server sends a bookmark about every minute.
const STALE: Duration = Duration::from_secs(150);

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WatchKind {
    /// Without pods nothing can be said.
    Pods,
    /// Deployments show rollouts.
    Deployments,
    /// The labels of namespaces decide what is in scope.
    Namespaces,
}

impl WatchKind {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Pods, Self::Deployments, Self::Namespaces];

    /// The plural name in lower case, as kubectl takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Deployments => "deployments",
            Self::Namespaces => "namespaces",
        }
    }
}

/// How far one kind has been read.
#[derive(Clone, Debug, Default)]
pub struct StreamState {
    /// A complete list has been read, and the changes since.
    pub synced: bool,
    /// The resource version of the last complete list, event or bookmark.
    pub version: u64,
    /// When that was read.
    pub progress: Moment,
    /// When the last complete list was begun.
    pub list_begun: Option<Moment>,
    /// Why it can't be read at present, for people.
    pub trouble: Option<String>,
    /// A new list is requested.
    pub relist: bool,
    /// Objects that can't be read: UID -> name and why.
    pub unreadable: BTreeMap<u128, String>,
    /// The number of the list that is being read, or was read last.
    pub(crate) list_number: u32,
    /// Unreadable objects that the list in progress has not held so far.
    unlisted: BTreeSet<u128>,
    /// The list in progress holds an object of which not even the UID can be read: it may be any of those we know.
    pub(crate) holds_unknown: bool,
}

impl StreamState {
    /// Whether it can be relied on.
    pub fn is_good(&self, now: Moment) -> bool {
        self.synced && now.saturating_sub(self.progress) <= STALE
    }

    /// Begins a list.
    pub fn list_begins(&mut self) {
        self.list_number = self.list_number.wrapping_add(1);
        self.relist = false;
        self.unlisted = self.unreadable.keys().copied().collect();
        self.holds_unknown = false;
    }

    /// Completes a list that began at `begun`. True if the server is not as far as it was before.
    pub fn list_ends(&mut self, version: u64, begun: Moment, now: Moment) -> bool {
        for uid in std::mem::take(&mut self.unlisted) {
            self.unreadable.remove(&uid);
        }
        let set_back = version > 0 && version < self.version;
        self.synced = true;
        self.relist = false;
        self.version = version;
        self.progress = now;
        self.list_begun = Some(begun);
        self.trouble = None;
        set_back
    }

    /// Notes that an object of this version was read. The versions of listed objects say nothing of how far a list is.
    pub fn advance(&mut self, version: u64, listed: bool, now: Moment) {
        self.progress = now;
        if !listed {
            self.version = self.version.max(version);
        }
    }

    /// Notes an object that can't be read. The warning, unless the same was warned of before.
    pub fn unreadable(&mut self, kind: &str, meta: &Meta, why: &str) -> Vec<String> {
        self.unlisted.remove(&meta.uid);
        self.holds_unknown |= meta.name.is_empty();
        let slash = if meta.namespace.is_empty() { "" } else { "/" };
        let name = format!("{}{slash}{}", meta.namespace, meta.name);
        let warning = format!("{kind} {name}: {why}");
        let before = self.unreadable.insert(meta.uid, warning.clone());
        if before.as_ref() == Some(&warning) {
            return vec![];
        }
        vec![format!("can't read {warning}; its last good state is kept")]
    }
}
