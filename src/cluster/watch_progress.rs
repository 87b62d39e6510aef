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
    /// Environments say what is recorded.
    Environments,
    /// NotificationSettings say who is told.
    Settings,
    /// ArtifactProvenances: evidence.
    Provenances,
    /// ArtifactApprovals: evidence.
    Approvals,
    /// AllowedArtifacts: evidence.
    Allowances,
}

impl WatchKind {
    /// How many there are.
    pub const COUNT: usize = 8;

    /// All of them.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Pods,
        Self::Deployments,
        Self::Namespaces,
        Self::Environments,
        Self::Settings,
        Self::Provenances,
        Self::Approvals,
        Self::Allowances,
    ];

    /// Those that carry evidence.
    pub const EVIDENCE: [Self; 3] = [Self::Provenances, Self::Approvals, Self::Allowances];

    /// The plural name in lower case, as kubectl takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Deployments => "deployments",
            Self::Namespaces => "namespaces",
            Self::Environments => "environments",
            Self::Settings => "notificationsettings",
            Self::Provenances => "artifactprovenances",
            Self::Approvals => "artifactapprovals",
            Self::Allowances => "allowedartifacts",
        }
    }

    /// What one of them is called.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Pods => "pod",
            Self::Deployments => "deployment",
            Self::Namespaces => "namespace",
            Self::Environments => "environment",
            Self::Settings => "notificationsetting",
            Self::Provenances => "artifactprovenance",
            Self::Approvals => "artifactapproval",
            Self::Allowances => "allowedartifact",
        }
    }

    /// Whether it decides what is recorded.
    pub fn decides(self) -> bool {
        self != Self::Settings
    }
}

/// How a complete list ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListEnd {
    /// It is what there is.
    Complete,
    /// The cluster's store was set back after it began: it has to be read again.
    Outdated,
    /// The server is not as far as it was before: its store was set back to an older state, and everything has to be read
    /// again.
    SetBack,
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
    /// Objects that can't be read, by UID.
    pub unreadable: BTreeMap<u128, UnreadableObject>,
    /// The number of the list that is being read, or was read last.
    pub(crate) list_number: u32,
    /// Unreadable objects that the list in progress has not held so far.
    unlisted: BTreeSet<u128>,
    /// The list in progress holds an object of which not even the UID can be read: it may be any of those we know.
    pub(crate) holds_unknown: bool,
    /// The list in progress began before the store was set back.
    outdated: bool,
    /// It has not been listed since the store was set back.
    pub(crate) awaited: bool,
}

/// An object that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableObject {
    /// Its namespace; empty for one without.
    pub namespace: String,
    /// Its name, and why it can't be read.
    pub warning: String,
}

/// What counts of most objects that can't be read.
pub(crate) const LAST_STATE: &str = "its last good state is kept";

impl StreamState {
    /// Whether it can be relied on.
    pub fn is_good(&self, now: Moment) -> bool {
        self.synced && now.saturating_sub(self.progress) <= STALE
    }

    /// Begins a list.
    pub fn list_begins(&mut self) {
        self.list_number = self.list_number.wrapping_add(1);
        self.relist = false;
        self.outdated = false;
        self.unlisted = self.unreadable.keys().copied().collect();
        self.holds_unknown = false;
    }

    /// How the list in progress ends, when this is its version.
    pub fn list_end(&self, version: u64) -> ListEnd {
        match () {
            () if self.outdated => ListEnd::Outdated,
            () if version > 0 && version < self.version => ListEnd::SetBack,
            () => ListEnd::Complete,
        }
    }

    /// Completes a list that began at `begun`.
    pub fn list_ends(&mut self, version: u64, begun: Moment, now: Moment) {
        for uid in std::mem::take(&mut self.unlisted) {
            self.unreadable.remove(&uid);
        }
        self.synced = true;
        self.awaited = false;
        self.relist = false;
        self.version = version;
        self.progress = now;
        self.list_begun = Some(begun);
        self.trouble = None;
    }

    /// The store was set back: nothing that was read before counts, and no version can be compared with one of before.
    pub fn set_back(&mut self) {
        self.synced = false;
        self.awaited = true;
        self.relist = true;
        self.outdated = true;
        self.version = 0;
    }

    /// It may not be read at all, or no longer, so what is known may be wrong.
    pub fn forbidden(&mut self) {
        self.synced = false;
        self.awaited = false;
    }

    /// The version from which it can be watched on; `None` if it has to be listed first.
    pub fn resumes_at(&self) -> Option<u64> {
        (self.synced && !self.relist).then_some(self.version)
    }

    /// Notes a bookmark, or that an object of this version was read. The versions of listed objects say nothing of how far
    /// a list is, nor does a watch that goes on though the kind has to be listed again.
    pub fn advance(&mut self, version: u64, listed: bool, now: Moment) {
        self.progress = now;
        if !listed && self.synced {
            self.version = self.version.max(version);
        }
    }

    /// An object could be read, or is gone. Whether it was unreadable before.
    pub fn readable(&mut self, uid: u128) -> bool {
        self.unreadable.remove(&uid).is_some()
    }

    /// Notes an object that can't be read: why, and what counts of it. The warning, unless the same was warned of before.
    pub fn unreadable(&mut self, kind: &str, meta: &Meta, why: &str) -> Option<String> {
        self.unlisted.remove(&meta.uid);
        self.holds_unknown |= meta.name.is_empty();
        let slash = if meta.namespace.is_empty() { "" } else { "/" };
        let name = format!("{}{slash}{}", meta.namespace, meta.name);
        let warning = format!("{kind} {name}: {why}");
        let message = format!("can't read {warning}");
        let object = UnreadableObject {
            namespace: meta.namespace.clone(),
            warning,
        };
        let before = self.unreadable.insert(meta.uid, object.clone());
        (before != Some(object)).then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_about_operations_names_exactly_the_kinds_without_which_readyz_fails() {
        let page = include_str!("../../docs/operations.md");
        let (_, row) = page.split_once("\n| `/readyz` | ").unwrap();
        let (_, kinds) = row.split_once(" is stale: ").unwrap();
        let (kinds, _) = kinds.split_once("; otherwise 503").unwrap();
        let kinds = kinds.split(", ").flat_map(|it| it.split(" and "));
        let kinds: Vec<_> = kinds.map(str::to_lowercase).collect();
        assert_eq!(kinds, WatchKind::ALL.map(WatchKind::as_str));
    }
}
