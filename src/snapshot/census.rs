//! Counts what runs in an environment, updated as pods come and go.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

use crate::{
    cluster::{
        fleet::{Pod, Workload},
        image::Fingerprint,
        scope::Scope,
    },
    compliance::artifact_identity::IdentityResolver,
    snapshot::ledger::{Cell, Cells},
};

/// Actual instances, by cell and by artifact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    cells: Cells,
    totals: BTreeMap<Fingerprint, u32>,
    /// The images in pod specs, by artifact.
    images: BTreeMap<(Fingerprint, Arc<str>), u32>,
    /// Other digests that were reported for containers: they identify the artifacts after a restart.
    aliases: BTreeMap<Fingerprint, u32>,
    /// The digests by which containers are known, by artifact.
    known: BTreeMap<(Fingerprint, Fingerprint), u32>,
    unidentified: usize,
}

/// What changed by counting a pod.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    pub cells: Vec<Cell>,
    /// Artifacts that ran before and run now, whose containers are known by other digests than before.
    pub known_otherwise: Vec<Fingerprint>,
}

impl Census {
    /// Counts all pods of a scope.
    pub fn of(scope: &Scope, resolver: &IdentityResolver) -> Self {
        let mut census = Self::default();
        let fleet = resolver.fleet;
        for namespace in fleet.pod_namespaces() {
            if scope.admits_namespace(namespace, fleet.namespace_labels(namespace)) {
                let pods = fleet.pods_in(namespace);
                for pod in pods.filter(|pod| admits_pod(scope, pod)) {
                    census.count(pod, resolver, true);
                }
            }
        }
        census
    }

    /// Adds or removes a pod.
    pub fn count(&mut self, pod: &Pod, resolver: &IdentityResolver, add: bool) -> Counted {
        let mut known_otherwise = vec![];
        let mut runs: BTreeMap<Fingerprint, &Arc<str>> = BTreeMap::new();
        for (digest, image) in pod.runs() {
            let fingerprint = resolver.canonical(digest);
            let named = runs.entry(fingerprint).or_insert(image);
            *named = (*named).min(image);
            let pair = (fingerprint, digest);
            let was = self.known.contains_key(&pair);
            step(&mut self.known, pair, add);
            if was != self.known.contains_key(&pair) && self.total(&fingerprint) > 0 {
                known_otherwise.push(fingerprint);
            }
        }
        if add {
            self.unidentified += pod.unidentified();
        } else {
            self.unidentified -= pod.unidentified();
        }
        for digest in pod.digests() {
            if resolver.canonical(digest) != digest {
                step(&mut self.aliases, digest, add);
            }
        }
        let cells = runs.into_iter().map(|(fingerprint, image)| {
            let cell = Cell {
                workload: pod.workload.clone(),
                fingerprint,
            };
            step(&mut self.cells, cell.clone(), add);
            step(&mut self.totals, fingerprint, add);
            step(&mut self.images, (fingerprint, image.clone()), add);
            cell
        });
        let cells = cells.collect();
        known_otherwise.retain(|fingerprint| self.total(fingerprint) > 0);
        Counted {
            cells,
            known_otherwise,
        }
    }

    pub fn cells(&self) -> &Cells {
        &self.cells
    }

    pub fn get(&self, cell: &Cell) -> u32 {
        self.cells.get(cell).copied().unwrap_or(0)
    }

    pub fn total(&self, fingerprint: &Fingerprint) -> u32 {
        self.totals.get(fingerprint).copied().unwrap_or(0)
    }

    /// All other digests that were reported for containers.
    pub fn aliases(&self) -> impl Iterator<Item = Fingerprint> {
        self.aliases.keys().copied()
    }

    /// The digests by which the containers of an artifact are known.
    pub fn known_by(&self, fingerprint: Fingerprint) -> impl Iterator<Item = Fingerprint> {
        let range = (fingerprint, Fingerprint([0; 32]))..=(fingerprint, Fingerprint([0xff; 32]));
        self.known.range(range).map(|((_, digest), _)| *digest)
    }

    /// Whether this digest was reported for any container.
    pub fn mentions(&self, digest: &Fingerprint) -> bool {
        self.totals.contains_key(digest) || self.aliases.contains_key(digest)
    }

    /// How many running containers can't be identified.
    pub fn unidentified(&self) -> usize {
        self.unidentified
    }

    /// The images in the specs of an artifact's pods.
    pub fn images(&self, fingerprint: Fingerprint) -> impl Iterator<Item = Arc<str>> {
        let from = (fingerprint, Arc::from(""));
        self.images
            .range(from..)
            .take_while(move |((found, _), _)| *found == fingerprint)
            .map(|((_, image), _)| image.clone())
    }
}

/// Whether a pod belongs to a scope if its namespace does.
pub fn admits_pod(scope: &Scope, pod: &Pod) -> bool {
    // Labels are unpacked only if there is a selector.
    let labels = scope
        .pod_selector
        .as_ref()
        .map(|_| pod.labels.unpack())
        .unwrap_or_default();
    scope.admits_pod(&labels, &pod.owners())
}

fn step<K: Ord>(counts: &mut BTreeMap<K, u32>, key: K, add: bool) {
    use std::collections::btree_map::Entry;
    match counts.entry(key) {
        Entry::Occupied(mut entry) if add => *entry.get_mut() += 1,
        Entry::Occupied(mut entry) if *entry.get() > 1 => *entry.get_mut() -= 1,
        Entry::Occupied(entry) => {
            entry.remove();
        }
        Entry::Vacant(entry) => {
            debug_assert!(add, "more taken out than put in");
            if add {
                entry.insert(1);
            }
        }
    }
}

/// The cells of one workload.
pub fn cells_of<'a, T: Copy>(
    cells: &'a BTreeMap<Cell, T>,
    workload: &Arc<Workload>,
) -> impl Iterator<Item = (&'a Cell, T)> {
    cells
        .range(range_of(workload))
        .map(|(cell, value)| (cell, *value))
}

/// From the first to the last cell that a workload can have.
pub fn range_of(workload: &Arc<Workload>) -> RangeInclusive<Cell> {
    let cell = |byte| Cell {
        workload: workload.clone(),
        fingerprint: Fingerprint([byte; 32]),
    };
    cell(0)..=cell(0xff)
}
