//! What runs in an environment right now, counted as pods come and go.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    fleet::{Fleet, Pod},
    image::Fingerprint,
    ledger::{Cell, Cells},
    scope::Scope,
};

/// Actual instances, by cell and by artifact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    cells: Cells,
    totals: BTreeMap<Fingerprint, u32>,
    /// The images by which pods ask for each artifact.
    images: BTreeMap<(Fingerprint, Arc<str>), u32>,
    unidentified: usize,
}

impl Census {
    /// Counts all pods of a scope.
    pub fn of(scope: &Scope, fleet: &Fleet) -> Self {
        let mut census = Self::default();
        for pod in fleet.pods().filter(|pod| admits(scope, fleet, pod)) {
            census.count(pod, fleet, true);
        }
        census
    }

    /// Adds a pod, or takes it out; the cells that changed.
    pub fn count(&mut self, pod: &Pod, fleet: &Fleet, add: bool) -> Vec<Cell> {
        let mut runs: BTreeMap<Fingerprint, &Arc<str>> = BTreeMap::new();
        for (digest, image) in pod.runs() {
            let named = runs.entry(fleet.canonical(digest)).or_insert(image);
            *named = (*named).min(image);
        }
        if add {
            self.unidentified += pod.unidentified();
        } else {
            self.unidentified -= pod.unidentified();
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
        cells.collect()
    }

    /// All cells.
    pub fn cells(&self) -> &Cells {
        &self.cells
    }

    /// Instances of a cell.
    pub fn get(&self, cell: &Cell) -> u32 {
        self.cells.get(cell).copied().unwrap_or(0)
    }

    /// Instances of an artifact.
    pub fn total(&self, fingerprint: &Fingerprint) -> u32 {
        self.totals.get(fingerprint).copied().unwrap_or(0)
    }

    /// How many artifacts run.
    pub fn artifacts(&self) -> usize {
        self.totals.len()
    }

    /// How many running containers can't be identified.
    pub fn unidentified(&self) -> usize {
        self.unidentified
    }

    /// The images by which pods ask for an artifact.
    pub fn images(&self, fingerprint: Fingerprint) -> impl Iterator<Item = Arc<str>> {
        let from = (fingerprint, Arc::from(""));
        self.images
            .range(from..)
            .take_while(move |((found, _), _)| *found == fingerprint)
            .map(|((_, image), _)| image.clone())
    }
}

/// Whether a pod belongs to a scope.
pub fn admits(scope: &Scope, fleet: &Fleet, pod: &Pod) -> bool {
    let namespace = &pod.workload.namespace;
    let asks = scope.pod_selector.is_some();
    let labels = asks.then(|| pod.labels.unpack()).unwrap_or_default();
    scope.admits(
        namespace,
        fleet.namespace_labels(namespace),
        &labels,
        &pod.owners(),
    )
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
pub fn cells_of<'a>(
    cells: &'a Cells,
    workload: &Arc<super::fleet::Workload>,
) -> impl Iterator<Item = (&'a Cell, u32)> {
    let first = Cell {
        workload: workload.clone(),
        fingerprint: Fingerprint([0; 32]),
    };
    let last = Cell {
        workload: workload.clone(),
        fingerprint: Fingerprint([0xff; 32]),
    };
    cells
        .range(first..=last)
        .map(|(cell, count)| (cell, *count))
}
