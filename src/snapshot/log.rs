#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! The log of snapshots in the API server. An entry is created by its name, which is a compare-and-swap, and never edited.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams, Preconditions},
    core::{ApiResource, DynamicObject, PartialObjectMeta},
};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::timeout;
use tracing::warn;

use crate::{
    api::{
        CHUNK_LABEL, ENVIRONMENT_LABEL, EnvironmentSnapshot, EnvironmentSnapshotSpec,
        environment::EnvironmentId,
        snapshot::{Checkpoint, MAX_EVENTS},
    },
    cluster::{
        custom_resource_status::{has_code, refuses_content},
        fleet::Fleet,
        pod_view::version,
    },
    snapshot::{
        cut::Entry,
        ledger::{Ledger, UnreadableLog},
        log_cache::LogCache,
    },
};

/// The label with the UID of the environment: it separates the log of a re-created environment from its predecessor's.
pub const UID_LABEL: &str = "shipbell.dev/environment-uid";
/// The label of entries that have a checkpoint: older ones can be pruned.
pub const CHECKPOINT_LABEL: &str = "shipbell.dev/checkpoint";
/// The annotation with the approximate size of an entry in bytes.
pub const SIZE_ANNOTATION: &str = "shipbell.dev/bytes";
/// The annotation with the number of events of an entry.
pub const EVENTS_ANNOTATION: &str = "shipbell.dev/events";

/// How long to wait for an answer; whether the request was carried out is found out later.
const TIMEOUT: Duration = Duration::from_secs(30);

/// At most how many bytes the API server stores of one object.
const MAX_OBJECT: u64 = 3 << 19;

/// The log of all environments.
#[derive(Clone)]
pub struct SnapshotLog {
    snapshots: Api<EnvironmentSnapshot>,
    cache: Arc<Mutex<LogCache>>,
}

/// The metadata of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryMeta {
    pub(crate) index: i64,
    pub name: String,
    pub uid: String,
    /// When the object was created, in whole seconds.
    pub created: Timestamp,
    /// The object's resource version.
    pub version: u64,
    /// Whether it holds a checkpoint.
    pub checkpoint: bool,
    /// About how many bytes it takes, with its metadata.
    pub bytes: u64,
    /// Whether it is a part of a checkpoint, not an entry.
    pub chunk: bool,
}

/// What the state after an entry is built from.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The entry with the nearest checkpoint.
    base: EnvironmentSnapshotSpec,
    /// That checkpoint.
    data: String,
    /// The entries since, oldest first.
    since: Vec<Arc<EnvironmentSnapshotSpec>>,
}

impl Replay {
    /// Builds the state. `rollout`: how long to wait for a rollout that was recorded before it was over.
    pub fn ledger(self, rollout: Duration, fleet: &mut Fleet) -> Result<Ledger, UnreadableLog> {
        let mut ledger = Ledger::restore(&self.base, &self.data, fleet)?;
        drop(self.data);
        for spec in &self.since {
            ledger.apply(spec, rollout, fleet)?;
        }
        Ok(ledger)
    }
}

/// What became of an append.
#[derive(Debug)]
pub enum Appended {
    /// It was written, by this attempt or an earlier one.
    Done,
    /// Another entry has its name; the UID of that entry's environment.
    Taken(String),
}

/// Why the log can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The API server refused.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// The API server did not answer.
    #[error("no answer from the API server in {} s", .0.as_secs())]
    Timeout(Duration),
    /// An entry holds what this version can't read.
    #[error("snapshot {0} can't be read: {1}")]
    Unreadable(String, serde_json::Error),
    /// An entry that was listed is gone.
    #[error("snapshot {0} is listed and can't be found")]
    Vanished(String),
}

impl LogError {
    /// Whether the operator lacks the right.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Api(error) if has_code(error, 403))
    }

    /// Whether the API server refused an object for what it holds: another one may be accepted.
    pub fn refuses_content(&self) -> bool {
        matches!(self, Self::Api(error) if refuses_content(error))
    }
}

pub(crate) async fn within<T>(
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, LogError> {
    within_limit(TIMEOUT, request).await
}

/// Waits this long for an answer of the API server.
pub(crate) async fn within_limit<T>(
    limit: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, LogError> {
    let answer = timeout(limit, request).await;
    Ok(answer.map_err(|_| LogError::Timeout(limit))??)
}

/// The name of an entry.
pub fn name(environment: &str, index: i64) -> String {
    format!("{environment}-{index:010}")
}

/// The number in the name of an entry, if it is one of this environment.
pub fn index(environment: &str, name: &str) -> Option<i64> {
    let digits = name.strip_prefix(environment)?.strip_prefix('-')?;
    let digits = (digits.len() == 10).then_some(digits)?;
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(digits)?
        .parse()
        .ok()
}

/// The name of a part of a checkpoint. The entry's hash separates it from the parts of another writer that lost the race for
/// the same index.
fn chunk_name(spec: &EnvironmentSnapshotSpec, number: usize) -> String {
    let hash: String = spec.content_hash.chars().take(12).collect();
    format!("{}-{hash}-c{number}", name(&spec.environment, spec.index))
}

impl SnapshotLog {
    /// The log in the API server of this client.
    pub fn new(client: Client) -> Self {
        Self {
            snapshots: Api::all(client),
            cache: Arc::default(),
        }
    }

    /// Forgets what was read: the log was set back.
    pub fn forget(&self) {
        *self.cache.lock() = LogCache::default();
    }

    /// Appends an entry. Its name is its index, so only one writer succeeds.
    pub async fn append(&self, entry: &Entry) -> Result<Appended, LogError> {
        let spec = &entry.spec;
        for (number, data) in entry.chunks.iter().enumerate() {
            self.write_chunk(spec, number, data).await?;
        }
        let name = name(&spec.environment, spec.index);
        let mut object = object(&name, spec.clone());
        if spec.checkpoint.is_some() {
            let labels = object.labels_mut();
            labels.insert(CHECKPOINT_LABEL.to_owned(), "true".to_owned());
        }
        let written = match within(self.snapshots.create(&PostParams::default(), &object)).await {
            Err(LogError::Api(kube::Error::Api(status))) if status.is_already_exists() => {
                // An earlier attempt of ours may have been carried out although its answer was lost.
                match self.find(&name).await? {
                    Some(Found::Read(found)) if found.spec.content_hash == spec.content_hash => {
                        *found
                    }
                    Some(found) => return Ok(Appended::Taken(found.environment_uid().to_owned())),
                    None => return Err(LogError::Api(kube::Error::Api(status))), // gone again: retry
                }
            }
            written => written?,
        };
        self.cache.lock().insert(shared(written));
        Ok(Appended::Done)
    }

    async fn write_chunk(
        &self,
        spec: &EnvironmentSnapshotSpec,
        number: usize,
        data: &str,
    ) -> Result<(), LogError> {
        let name = chunk_name(spec, number);
        let mut part = spec.clone();
        part.changes.clear();
        part.events.clear();
        part.identities.clear();
        part.checkpoint = Some(Checkpoint {
            data: Some(data.to_owned()),
            chunks: None,
        });
        let mut object = object(&name, part);
        let labels = object.labels_mut();
        labels.insert(CHUNK_LABEL.to_owned(), number.to_string());
        match within(self.snapshots.create(&PostParams::default(), &object)).await {
            // The hash is part of the name, so it was created by an earlier attempt of ours.
            Err(LogError::Api(kube::Error::Api(status))) if status.is_already_exists() => Ok(()),
            written => written.map(|_| ()),
        }
    }

    /// The entry with this index, unless it belongs to another environment that had the same name.
    pub async fn read(
        &self,
        environment: &EnvironmentId,
        index: i64,
    ) -> Result<Option<Arc<EnvironmentSnapshotSpec>>, LogError> {
        let spec = self.read_uncached(environment, index).await?;
        if let Some(spec) = &spec {
            self.cache.lock().insert(spec.clone());
        }
        Ok(spec)
    }

    /// Reads an entry without caching it, for long searches.
    pub async fn read_uncached(
        &self,
        environment: &EnvironmentId,
        index: i64,
    ) -> Result<Option<Arc<EnvironmentSnapshotSpec>>, LogError> {
        let cached = self.cache.lock().get(&environment.uid, index);
        if cached.is_some() {
            return Ok(cached);
        }
        // A thousand settings wait for their entries at once, which are most often cached.
        let found = Box::pin(self.get(environment, index)).await?;
        Ok(found.map(shared))
    }

    /// The object with this index from the API server, unless it belongs to another environment that had the same name.
    async fn get(
        &self,
        environment: &EnvironmentId,
        index: i64,
    ) -> Result<Option<EnvironmentSnapshot>, LogError> {
        let name = name(&environment.name, index);
        match self.find(&name).await? {
            Some(found) if found.environment_uid() != environment.uid => Ok(None),
            Some(Found::Read(object)) => Ok(Some(*object)),
            Some(Found::Unreadable(_, why)) => Err(LogError::Unreadable(name, why)),
            None => Ok(None),
        }
    }

    /// The object of this name. Whoever can write snapshots may have written one that can't be read: it is not to stop a
    /// log to which it does not even say that it belongs.
    async fn find(&self, name: &str) -> Result<Option<Found>, LogError> {
        let why = match within(self.snapshots.get_opt(name)).await {
            Err(LogError::Api(kube::Error::SerdeError(why))) => why,
            found => return Ok(found?.map(|object| Found::Read(Box::new(object)))),
        };
        let kind = ApiResource::erase::<EnvironmentSnapshot>(&());
        let any: Api<DynamicObject> = Api::all_with(self.snapshots.clone().into_client(), &kind);
        let found = within(any.get_opt(name)).await?;
        Ok(found.map(|object| Found::Unreadable(Box::new(object), why)))
    }

    /// The content hash of the entry with this index, always from the API server.
    pub async fn read_hash(
        &self,
        environment: &EnvironmentId,
        index: i64,
    ) -> Result<Option<String>, LogError> {
        let found = self.get(environment, index).await?;
        Ok(found.map(|object| object.spec.content_hash))
    }

    /// The checkpoint that an entry has or refers to.
    pub async fn checkpoint(
        &self,
        environment: &str,
        index: i64,
    ) -> Result<Option<(EnvironmentSnapshotSpec, String)>, LogError> {
        let Some(object) = within(self.snapshots.get_opt(&name(environment, index))).await? else {
            return Ok(None);
        };
        let Some(checkpoint) = &object.spec.checkpoint else {
            return Ok(None);
        };
        let mut data = checkpoint.data.clone().unwrap_or_default();
        let chunks = usize::try_from(checkpoint.chunks.unwrap_or(0)).unwrap_or(0);
        for number in 0..chunks {
            let name = chunk_name(&object.spec, number);
            let chunk = within(self.snapshots.get_opt(&name)).await?;
            let Some(chunk) = chunk.and_then(|chunk| chunk.spec.checkpoint?.data) else {
                return Ok(None);
            };
            data.push_str(&chunk);
        }
        Ok(Some((object.spec, data)))
    }

    /// The entries of an environment's log, by number.
    pub async fn entries(&self, environment: &EnvironmentId) -> Result<Vec<EntryMeta>, LogError> {
        let mut entries = vec![];
        let params = ListParams::default().labels(&selector(environment));
        self.each(params, |object| {
            entries.extend(entry_meta(&environment.name, object));
        })
        .await?;
        self.leave_out_foreign(environment, &mut entries).await?;
        Ok(entries)
    }

    /// Sorts the entries of a log by number, and leaves out what has its labels and a higher number than any of its entries:
    /// whoever can write snapshots may have written that. Only the newest entry decides where a log ends.
    pub async fn leave_out_foreign(
        &self,
        environment: &EnvironmentId,
        entries: &mut Vec<EntryMeta>,
    ) -> Result<(), LogError> {
        entries.sort_by_key(|entry| entry.index);
        while let Some(at) = entries.iter().rposition(|entry| !entry.chunk)
            && !self.is_entry(environment, entries[at].index).await?
        {
            let foreign = entries.remove(at);
            warn!(
                environment = environment.name,
                snapshot = foreign.name,
                "ignoring a snapshot that has the labels of this environment and is not of its log; delete it"
            );
        }
        Ok(())
    }

    /// The number of the oldest entry of an environment's log that is kept.
    pub async fn first(&self, environment: &EnvironmentId) -> Result<Option<i64>, LogError> {
        // The API server lists by name, and the names are in the order of the numbers.
        let params = ListParams::default()
            .labels(&selector(environment))
            .limit(1);
        let page = within(self.snapshots.list_metadata(&params)).await?;
        let first = page.items.first();
        Ok(first.and_then(|object| Some(entry_meta(&environment.name, object)?.index)))
    }

    /// The numbers of the entries of an environment's log, and how many events each has, if its metadata says so.
    pub async fn event_counts(
        &self,
        environment: &EnvironmentId,
    ) -> Result<BTreeMap<i64, Option<usize>>, LogError> {
        let mut counts = BTreeMap::new();
        let params = ListParams::default().labels(&selector(environment));
        self.each(params, |object| {
            if let Some(entry) = entry_meta(&environment.name, object) {
                let events = object.annotations().get(EVENTS_ANNOTATION);
                let events = events.and_then(|events| events.parse::<usize>().ok());
                counts.insert(entry.index, events.map(|events| events.min(MAX_EVENTS)));
            }
        })
        .await?;
        Ok(counts)
    }

    /// Whether the entry with this index is what its name and its labels say.
    async fn is_entry(&self, environment: &EnvironmentId, index: i64) -> Result<bool, LogError> {
        if self.cache.lock().get(&environment.uid, index).is_some() {
            return Ok(true);
        }
        let found = self.get(environment, index).await?.map(|found| found.spec);
        Ok(found.is_some_and(|it| it.environment == environment.name && it.index == index))
    }

    /// All logs with their chunks, including those of deleted environments.
    pub async fn all_entries(&self) -> Result<BTreeMap<EnvironmentId, Vec<EntryMeta>>, LogError> {
        let mut logs: BTreeMap<_, Vec<EntryMeta>> = BTreeMap::new();
        self.each(ListParams::default(), |object| {
            let label = |label| object.labels().get(label).cloned();
            if let (Some(name), Some(uid)) = (label(ENVIRONMENT_LABEL), label(UID_LABEL)) {
                let entry = entry_meta(&name, object);
                let environment = EnvironmentId { name, uid };
                logs.entry(environment).or_default().extend(entry);
            }
        })
        .await?;
        Ok(logs)
    }

    /// Lists metadata page by page: what the caller does not keep is freed after each page.
    async fn each(
        &self,
        params: ListParams,
        mut show: impl FnMut(&PartialObjectMeta<EnvironmentSnapshot>),
    ) -> Result<(), LogError> {
        let mut params = params.limit(500);
        loop {
            let page = within(self.snapshots.list_metadata(&params)).await?;
            page.items.iter().for_each(&mut show);
            match page.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) => params = params.continue_token(&next),
                None => return Ok(()),
            }
        }
    }

    /// What the state after an entry is built from.
    pub async fn replay(
        &self,
        environment: &EnvironmentId,
        head: i64,
    ) -> Result<Result<Replay, String>, LogError> {
        let mut since = vec![];
        let mut index = head;
        let name = |index| name(&environment.name, index);
        loop {
            let Some(spec) = self.read(environment, index).await? else {
                return Ok(Err(format!("snapshot {} is missing", name(index))));
            };
            if spec.checkpoint.is_some() {
                break;
            }
            since.push(spec);
            index -= 1;
        }
        let Some((base, data)) = self.checkpoint(&environment.name, index).await? else {
            return Ok(Err(format!(
                "the checkpoint of snapshot {} is missing",
                name(index)
            )));
        };
        since.reverse();
        Ok(Ok(Replay { base, data, since }))
    }

    /// Removes an entry, if it still has this UID.
    pub async fn remove(&self, name: &str, uid: &str) -> Result<(), LogError> {
        let preconditions = Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        };
        let params = DeleteParams::default().preconditions(preconditions);
        match within(self.snapshots.delete(name, &params)).await {
            Err(LogError::Api(kube::Error::Api(status)))
                if status.code == 404 || status.code == 409 =>
            {
                Ok(())
            }
            removed => removed.map(|_| ()),
        }
    }

    /// Removes the entry with this index if it is one of this environment.
    pub async fn remove_entry(
        &self,
        environment: &EnvironmentId,
        index: i64,
    ) -> Result<(), LogError> {
        let name = name(&environment.name, index);
        let found = self.find(&name).await?;
        match found.filter(|found| found.environment_uid() == environment.uid) {
            Some(found) => self.remove(&name, &found.uid()).await,
            None => Ok(()),
        }
    }
}

/// An object that has the name of an entry.
enum Found {
    /// What it holds.
    Read(Box<EnvironmentSnapshot>),
    /// It holds what can't be read: why.
    Unreadable(Box<DynamicObject>, serde_json::Error),
}

impl Found {
    /// The UID of the environment to whose log it says that it belongs.
    fn environment_uid(&self) -> &str {
        match self {
            Self::Read(object) => &object.spec.environment_uid,
            Self::Unreadable(object, _) => {
                let uid = object.data.pointer("/spec/environmentUID");
                uid.and_then(Value::as_str).unwrap_or_default()
            }
        }
    }

    /// Its own UID.
    fn uid(&self) -> String {
        let uid = match self {
            Self::Read(object) => object.uid(),
            Self::Unreadable(object, _) => object.uid(),
        };
        uid.unwrap_or_default()
    }
}

/// Selects the entries of an environment's log, without parts of checkpoints.
fn selector(environment: &EnvironmentId) -> String {
    let EnvironmentId { name, uid } = environment;
    format!("{ENVIRONMENT_LABEL}={name},{UID_LABEL}={uid},!{CHUNK_LABEL}")
}

/// The content of an entry without the data of its checkpoint, which only a start needs, and which it reads apart.
fn shared(object: EnvironmentSnapshot) -> Arc<EnvironmentSnapshotSpec> {
    let mut spec = object.spec;
    if let Some(checkpoint) = &mut spec.checkpoint {
        checkpoint.data = None;
    }
    Arc::new(spec)
}

fn object(name: &str, spec: EnvironmentSnapshotSpec) -> EnvironmentSnapshot {
    let labels = [
        (ENVIRONMENT_LABEL, spec.environment.as_str()),
        (UID_LABEL, spec.environment_uid.as_str()),
        ("app.kubernetes.io/managed-by", "shipbell"),
        // A log that is restored from a backup is an old one: the operator starts from a new baseline instead.
        ("velero.io/exclude-from-backup", "true"),
    ];
    let labels = labels
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let bytes = serde_json::to_vec(&spec).map_or(0, |json| json.len());
    let annotations = [
        (SIZE_ANNOTATION.to_owned(), bytes.to_string()),
        (EVENTS_ANNOTATION.to_owned(), spec.events.len().to_string()),
    ];
    let annotations = annotations.into();
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(labels),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    };
    EnvironmentSnapshot { metadata, spec }
}

fn entry_meta(
    environment: &str,
    object: &PartialObjectMeta<EnvironmentSnapshot>,
) -> Option<EntryMeta> {
    let metadata = &object.metadata;
    let name = metadata.name.clone()?;
    let number = name.strip_prefix(environment)?.strip_prefix('-')?;
    let index = number.split('-').next()?.parse().ok()?;
    let has = |label| object.labels().contains_key(label);
    let bytes = object.annotations().get(SIZE_ANNOTATION);
    let bytes = bytes.and_then(|bytes| bytes.parse::<u64>().ok());
    let own = serde_json::to_vec(metadata).map_or(0, |json| json.len() as u64);
    Some(EntryMeta {
        index,
        uid: metadata.uid.clone()?,
        created: metadata.creation_timestamp.as_ref()?.0,
        version: version(metadata.resource_version.as_deref().unwrap_or_default()),
        checkpoint: has(CHECKPOINT_LABEL),
        // No object is bigger, whatever its annotation says.
        bytes: own + bytes.unwrap_or(1_000).min(MAX_OBJECT),
        chunk: has(CHUNK_LABEL),
        name,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// How many bytes an entry counts whose metadata also has this.
    fn bytes(more: &Value) -> u64 {
        let mut metadata = json!({
            "name": "prod-0000000007", "uid": "u", "resourceVersion": "9",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        });
        let own = metadata.as_object_mut().unwrap();
        own.extend(more.as_object().unwrap().clone());
        let object = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata});
        let object = serde_json::from_value(object).unwrap();
        entry_meta("prod", &object).unwrap().bytes
    }

    #[test]
    fn the_name_of_an_entry_tells_its_number() {
        for (environment, name, number) in [
            ("prod", &*name("prod", 17), Some(17)),
            (
                "eu-1.prod",
                &*name("eu-1.prod", 9_999_999_999),
                Some(9_999_999_999),
            ),
            ("prod", "prod-0000000017-abc-c1", None),
            ("prod", "prod-17", None),
            ("prod", "prod-+000000017", None),
            ("pro", "prod-0000000017", None),
            ("prod", "", None),
        ] {
            assert_eq!(index(environment, name), number, "{name}");
        }
    }

    #[test]
    fn whatever_somebody_adds_to_the_metadata_of_an_entry_counts_as_part_of_its_size() {
        const ADDED: usize = 100_000;
        let (text, plain) = ("x".repeat(ADDED), bytes(&json!({})));
        let names: Vec<String> = (0..ADDED / 10).map(|name| format!("{name:010}")).collect();
        for more in [
            json!({"annotations": {"note": text}}),
            json!({"labels": {"note": text}}),
            json!({"finalizers": names}),
            json!({"managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {text: {}}}}]}),
        ] {
            let added = bytes(&more) - plain;
            let is_right = (ADDED..2 * ADDED).contains(&usize::try_from(added).unwrap());
            assert!(is_right, "{added} bytes of {:.40}", more.to_string());
        }
    }

    #[test]
    fn what_an_entry_says_of_its_size_counts_as_far_as_an_object_can_be_that_big() {
        let says = |size: &str| bytes(&json!({"annotations": {SIZE_ANNOTATION: size}}));
        assert_eq!(says("5000") - says("4000"), 1_000);
        let longer = "18446744073709551615".len() - "1572864".len();
        assert_eq!(
            says("18446744073709551615") - says("1572864"),
            u64::try_from(longer).unwrap(),
            "no object is bigger than 1.5 MiB"
        );
    }
}
