//! Records, reviews and the allow-list of the simulated cluster.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ObjectMeta;
use serde::Serialize;
use serde_json::Value;

use crate::{
    api::{AllowedArtifact, ArtifactApproval, ArtifactProvenance, condition},
    cluster::{custom_resource_watch::Slim, pod_view::Decoded, watch_progress::WatchKind},
    compliance::{
        evidence::{Allowance, EvidenceKey, EvidenceKind, ProvenanceRecord},
        evidence_resource::{EvidenceResource, EvidenceStatus as _},
        evidence_state::EvidenceState as _,
        evidence_watch,
    },
    simulation::{Cluster, testing::digest},
};

/// The evidence in the cluster.
#[derive(Clone, Debug, Default)]
pub struct EvidenceObjects {
    records: BTreeMap<EvidenceKey, ArtifactProvenance>,
    reviews: BTreeMap<EvidenceKey, ArtifactApproval>,
    allowances: BTreeMap<String, AllowedArtifact>,
    seed: u64,
}

fn key(name: &str) -> EvidenceKey {
    let (namespace, name) = name.split_once('/').unwrap_or(("ci", name));
    EvidenceKey {
        namespace: namespace.into(),
        name: name.into(),
    }
}

impl Cluster {
    fn metadata(&mut self, key: &EvidenceKey, old: Option<ObjectMeta>) -> ObjectMeta {
        if let Some(old) = old {
            return old;
        }
        self.serial += 1;
        ObjectMeta {
            namespace: Some(key.namespace.to_string()).filter(|namespace| !namespace.is_empty()),
            name: Some(key.name.to_string()),
            uid: Some(format!("said-{}", self.serial)),
            creation_timestamp: Some(Time(self.wall())),
            ..ObjectMeta::default()
        }
    }

    /// Writes a record, `namespace/name` or a name in `ci` (YAML).
    pub fn record(&mut self, name: &str, spec: &str) {
        let key = key(name);
        let old = self
            .said
            .records
            .get(&key)
            .map(|object| object.metadata.clone());
        let metadata = self.metadata(&key, old);
        let object = ArtifactProvenance {
            metadata,
            spec: serde_saphyr::from_str(spec).unwrap(),
            status: None,
        };
        self.said.records.insert(key.clone(), object.clone());
        if self.up {
            let record = ProvenanceRecord::of(&object).unwrap();
            self.state.record_seen(&key, Some(record), self.now);
            self.turn();
        }
    }

    /// What the statuses of all evidence should say, each with the file of its schema.
    pub fn evidence_statuses(&self) -> Vec<(&'static str, Value)> {
        fn status<K: EvidenceResource>(cluster: &Cluster, key: &EvidenceKey) -> Value {
            let now = cluster.wall();
            let (mut status, ready) = K::new_status(key, &cluster.state, now).unwrap();
            condition::set(status.common().0, &ready, Some(1), now);
            serde_json::to_value(status).unwrap()
        }
        let records = self.said.records.keys();
        let records = records.map(|key| status::<ArtifactProvenance>(self, key));
        let reviews = self.said.reviews.keys();
        let reviews = reviews.map(|key| status::<ArtifactApproval>(self, key));
        let entries = self.said.allowances.keys().map(|name| {
            let key = EvidenceKey::of_cluster(name);
            status::<AllowedArtifact>(self, &key)
        });
        let records = records.map(|status| ("artifactprovenances", status));
        let reviews = reviews.map(|status| ("artifactapprovals", status));
        let entries = entries.map(|status| ("allowedartifacts", status));
        records.chain(reviews).chain(entries).collect()
    }

    /// The newest state of a record is told in a form that can't be read as a whole.
    pub fn misread_record(&mut self, name: &str, spoil: impl FnOnce(&mut Value)) -> String {
        let object = self.said.records[&key(name)].clone();
        self.misread(&object, spoil)
    }

    /// The same of a review.
    pub fn misread_review(&mut self, name: &str, spoil: impl FnOnce(&mut Value)) -> String {
        let object = self.said.reviews[&key(name)].clone();
        self.misread(&object, spoil)
    }

    /// The same of an entry of the allow-list.
    pub fn misread_allowance(&mut self, name: &str, spoil: impl FnOnce(&mut Value)) -> String {
        let object = self.said.allowances[name].clone();
        self.misread(&object, spoil)
    }

    fn misread<K: EvidenceResource + Serialize>(
        &mut self,
        object: &K,
        spoil: impl FnOnce(&mut Value),
    ) -> String {
        let key = EvidenceKey::of_metadata(object.meta());
        let mut json = serde_json::to_value(object).unwrap();
        json["metadata"]["resourceVersion"] = "7".into();
        spoil(&mut json);
        let (state, now) = (&mut self.state, self.now);
        let counts = match serde_json::from_str::<Decoded<Slim<K>>>(&json.to_string()).unwrap() {
            Decoded::Good(slim) => {
                let why = evidence_watch::take_in(&key, slim.object(), state, now).unwrap_err();
                why.split_once("; ").unwrap().1.to_owned()
            }
            Decoded::Part(slim, _) => K::misread(&key, Some(slim.object()), state, now).to_owned(),
            Decoded::Bad(..) => K::misread(&key, None, state, now).to_owned(),
        };
        self.turn();
        counts
    }

    /// The condition Ready of an entry of the allow-list: its reason.
    pub fn reason_of_allowance(&self, name: &str) -> &'static str {
        let key = EvidenceKey::of_cluster(name);
        let new = AllowedArtifact::new_status(&key, &self.state, self.wall());
        new.unwrap().1.reason
    }

    /// The same of a record.
    pub fn reason_of_record(&self, name: &str) -> &'static str {
        let new = ArtifactProvenance::new_status(&key(name), &self.state, self.wall());
        new.unwrap().1.reason
    }

    /// Deletes a record.
    pub fn unrecord(&mut self, name: &str) {
        let key = key(name);
        self.said.records.remove(&key).unwrap();
        if self.up {
            self.state.record_seen(&key, None, self.now);
            self.turn();
        }
    }

    /// Writes a review (YAML).
    pub fn review(&mut self, name: &str, spec: &str) {
        let key = key(name);
        let metadata = self.metadata(&key, None);
        let object = ArtifactApproval {
            metadata,
            spec: serde_saphyr::from_str(spec).unwrap(),
            status: None,
        };
        self.said.reviews.insert(key.clone(), object.clone());
        if self.up {
            self.state.review_seen(&key, Some(&object)).unwrap();
            self.turn();
        }
    }

    /// Writes an entry of the allow-list (YAML).
    pub fn allow(&mut self, name: &str, spec: &str) {
        self.allow_quietly(name, spec);
        self.turn();
    }

    /// The same without running the recorder.
    pub fn allow_quietly(&mut self, name: &str, spec: &str) {
        let key = EvidenceKey {
            namespace: "".into(),
            name: name.into(),
        };
        let old = self
            .said
            .allowances
            .get(name)
            .map(|object| object.metadata.clone());
        let metadata = self.metadata(&key, old);
        let object = AllowedArtifact {
            metadata,
            spec: serde_saphyr::from_str(spec).unwrap(),
            status: None,
        };
        self.said.allowances.insert(name.to_owned(), object.clone());
        if self.up {
            let allowance = Allowance::of(&object).unwrap();
            self.state.allowance_seen(name, Some(allowance));
        }
    }

    /// Deletes an entry of the allow-list.
    pub fn disallow(&mut self, name: &str) {
        self.said.allowances.remove(name).unwrap();
        if self.up {
            self.state.allowance_seen(name, None);
            self.turn();
        }
    }

    /// Whether there is such a record.
    pub fn has_record(&self, name: &str) -> bool {
        self.said.records.contains_key(&key(name))
    }

    /// Whether there is such an entry of the allow-list.
    pub fn has_allowance(&self, name: &str) -> bool {
        self.said.allowances.contains_key(name)
    }

    /// How many reviews there are.
    pub fn reviews(&self) -> usize {
        self.said.reviews.len()
    }

    /// Lists come in another order from now on.
    pub fn shuffle(&mut self, seed: u64) {
        self.said.seed = seed;
    }

    /// Lists all evidence.
    pub(super) fn list_evidence(&mut self) {
        for kind in WatchKind::EVIDENCE {
            self.list_quietly(kind);
        }
    }

    /// Takes in all objects of a kind of evidence, and that others are gone.
    pub(super) fn take_in_evidence(&mut self, kind: WatchKind) {
        match kind {
            WatchKind::Provenances => self.take_in_records(),
            WatchKind::Approvals => self.take_in_reviews(),
            _ => self.take_in_allowances(),
        }
    }

    fn take_in_records(&mut self) {
        for key in self.state.evidence().keys(EvidenceKind::Records) {
            if !self.said.records.contains_key(&key) {
                self.state.record_seen(&key, None, self.now);
            }
        }
        let mut records: Vec<_> = self.said.records.iter().collect();
        let seed = self.said.seed;
        records.sort_by_key(|(key, _)| digest(&format!("{key} {seed}")).0);
        for (key, object) in records {
            let record = ProvenanceRecord::of(object).unwrap();
            self.state.record_seen(key, Some(record), self.now);
        }
    }

    fn take_in_reviews(&mut self) {
        for key in self.state.evidence().keys(EvidenceKind::Reviews) {
            if !self.said.reviews.contains_key(&key) {
                self.state.review_seen(&key, None).unwrap();
            }
        }
        let mut reviews: Vec<_> = self.said.reviews.iter().collect();
        // As the operator sorts them: those of one second by the version of the object.
        reviews.sort_by_key(|(_, object)| {
            let serial = object
                .metadata
                .uid
                .as_ref()
                .and_then(|uid| uid[5..].parse::<u64>().ok());
            (object.metadata.creation_timestamp.clone(), serial)
        });
        for (key, object) in reviews {
            self.state.review_seen(key, Some(object)).unwrap();
        }
    }

    fn take_in_allowances(&mut self) {
        for key in self.state.evidence().keys(EvidenceKind::Allowances) {
            if !self.said.allowances.contains_key(&*key.name) {
                self.state.allowance_seen(&key.name, None);
            }
        }
        for (name, object) in &self.said.allowances {
            let allowance = Allowance::of(object).unwrap();
            self.state.allowance_seen(name, Some(allowance));
        }
    }
}
