//! Counts what runs in an environment, updated as pods come and go.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

use crate::{
    cluster::{
        fleet::{Fleet, LearnedContainer, Pod, TrustedContainer, Workload},
        hanging::Hanging,
        image::Fingerprint,
        scope::Scope,
    },
    compliance::artifact_identity::IdentityResolver,
    snapshot::ledger::{Cell, Cells, Place},
};

/// Actual instances, by cell and by artifact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    cells: Cells,
    totals: BTreeMap<Fingerprint, u32>,
    /// Actual instances by namespace.
    places: BTreeMap<Place, u32>,
    /// The images in pod specs, by artifact.
    images: BTreeMap<(Fingerprint, Arc<str>), u32>,
    /// Other digests by which containers are known or were reported, each with the artifact as which they are shown.
    aliases: BTreeMap<(Fingerprint, Fingerprint), u32>,
    /// What counts for the rules of containers, by the artifact as which they are shown.
    trusted: BTreeMap<(Fingerprint, TrustedContainer), u32>,
    /// What was learned of running containers, by a hash of their ids.
    learned: BTreeMap<(u64, LearnedContainer), u32>,
    unidentified: usize,
    /// What runs and is not counted: pods with excluded owners, pods that their nodes should have ended long ago, and init
    /// containers that run once. Rules apply to it.
    uncounted: BTreeMap<Uncounted, u32>,
    /// Containers of these that can't be identified.
    uncounted_unidentified: usize,
    /// The pods that hang are not counted.
    hanging: Hanging,
}

/// A container that runs and is not counted, as far as rules need to know it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uncounted {
    /// The artifact as which it is shown.
    pub fingerprint: Fingerprint,
    pub trusted: TrustedContainer,
    pub namespace: Arc<str>,
    /// The image that the spec asks for.
    pub image: Arc<str>,
}

/// What changed by counting a pod.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    pub cells: Vec<Cell>,
    /// Artifacts, and what counts of their containers for the rules since now, or no more.
    pub known_otherwise: Vec<(Fingerprint, TrustedContainer)>,
    /// What is not counted, and came or went.
    pub uncounted: Vec<Uncounted>,
}

impl Census {
    /// Counts all pods of a scope, but those that hang.
    pub fn of(scope: &Scope, fleet: &Fleet, resolver: &IdentityResolver, hanging: Hanging) -> Self {
        let mut census = Self {
            hanging,
            ..Self::default()
        };
        for namespace in fleet.pod_namespaces() {
            if scope.admits_namespace(namespace, fleet.namespace_labels(namespace)) {
                let pods = fleet.pods_in(namespace);
                for pod in pods.filter(|pod| admits_pod(scope, pod)) {
                    census.count(pod, scope, resolver, true);
                }
            }
        }
        census
    }

    /// Adds or removes a pod.
    pub fn count(
        &mut self,
        pod: &Pod,
        scope: &Scope,
        resolver: &IdentityResolver,
        add: bool,
    ) -> Counted {
        let (mut known_otherwise, mut uncounted) = (vec![], vec![]);
        let hangs = pod.ends().is_some_and(|ends| self.hanging.has(ends));
        let counts = scope.counts(&pod.owners()) && !hangs;
        let mut runs: BTreeMap<Fingerprint, &Arc<str>> = BTreeMap::new();
        for container in pod.runs() {
            let counted = counts && !container.once;
            if container.trusted.is_none() {
                let unidentified = match counted {
                    true => &mut self.unidentified,
                    false => &mut self.uncounted_unidentified,
                };
                *unidentified = if add {
                    *unidentified + 1
                } else {
                    *unidentified - 1
                };
            }
            let Some(shown) = container.shown else {
                continue;
            };
            let fingerprint = resolver.canonical(shown);
            if !counted {
                let (namespace, image) = (&pod.workload.namespace, container.image);
                uncounted.extend(container.trusted.map(|trusted| Uncounted {
                    fingerprint,
                    trusted,
                    namespace: namespace.clone(),
                    image: image.clone(),
                }));
                continue;
            }
            let also = container.trusted.iter().filter_map(|it| it.digests.also);
            for digest in also.chain([shown]).filter(|it| *it != fingerprint) {
                step(&mut self.aliases, (digest, fingerprint), add);
            }
            let named = runs.entry(fingerprint).or_insert(container.image);
            *named = (*named).min(container.image);
            let Some(trusted) = container.trusted else {
                continue; // it is counted as unidentified
            };
            let pair = (fingerprint, trusted);
            if step(&mut self.trusted, pair.clone(), add) {
                known_otherwise.push(pair);
            }
        }
        // Whatever else runs there must not pass for compliant.
        let unkept = match counts {
            true => &mut self.unidentified,
            false => &mut self.uncounted_unidentified,
        };
        *unkept = if add {
            *unkept + pod.unkept()
        } else {
            *unkept - pod.unkept()
        };
        for learned in pod.learned() {
            step(&mut self.learned, learned, add);
        }
        let cells = runs.into_iter().map(|(fingerprint, image)| {
            let cell = Cell {
                workload: pod.workload.clone(),
                fingerprint,
            };
            step(&mut self.cells, cell.clone(), add);
            step(&mut self.totals, fingerprint, add);
            step(&mut self.places, cell.place(), add);
            step(&mut self.images, (fingerprint, image.clone()), add);
            cell
        });
        let cells = cells.collect();
        let mut moved = vec![];
        for it in uncounted {
            if step(&mut self.uncounted, it.clone(), add) {
                moved.push(it);
            }
        }
        Counted {
            cells,
            known_otherwise,
            uncounted: moved,
        }
    }

    /// The pods that are not counted because they hang.
    pub fn hanging(&self) -> &Hanging {
        &self.hanging
    }

    /// Those, when nothing else of it is needed any more.
    pub fn into_hanging(self) -> Hanging {
        self.hanging
    }

    /// Sets which those are. The pods for which that matters have to be taken out before, and added afterwards.
    pub fn set_hanging(&mut self, hanging: Hanging) {
        self.hanging = hanging;
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

    /// One in which an instance runs in each of these places.
    #[cfg(test)]
    pub fn running(places: &[Place]) -> Self {
        Self {
            places: places.iter().map(|place| (place.clone(), 1)).collect(),
            ..Self::default()
        }
    }

    /// Where artifacts run.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.keys()
    }

    /// Whether an artifact runs in a namespace.
    pub fn is_in(&self, place: &Place) -> bool {
        self.places.contains_key(place)
    }

    /// All other digests by which containers are known or were reported: some that identify artifacts after a restart, and some
    /// that are artifacts of their own. With repeats.
    pub fn aliases(&self) -> impl Iterator<Item = Fingerprint> {
        self.aliases.keys().map(|(digest, _)| *digest)
    }

    /// The artifacts as which containers are shown that are known by this digest too, counted or not.
    pub fn shown_as(&self, digest: Fingerprint) -> impl Iterator<Item = Fingerprint> {
        let all = (digest, Fingerprint([0; 32]))..=(digest, Fingerprint([0xff; 32]));
        let counted = self.aliases.range(all).map(|((_, shown), _)| *shown);
        let known_by = move |it: &&Uncounted| it.trusted.digests.also == Some(digest);
        counted.chain(self.uncounted().filter(known_by).map(|it| it.fingerprint))
    }

    /// What counts for the rules of the containers of an artifact.
    pub fn trusted(&self, fingerprint: Fingerprint) -> impl Iterator<Item = &TrustedContainer> {
        let from = (fingerprint, TrustedContainer::only(Fingerprint([0; 32])));
        let range = self.trusted.range(from..);
        let of_it = range.take_while(move |((found, _), _)| *found == fingerprint);
        of_it.map(|((_, trusted), _)| trusted)
    }

    /// What was learned of running containers, by a hash of their ids.
    pub fn learned(&self) -> impl Iterator<Item = &(u64, LearnedContainer)> {
        self.learned.keys()
    }

    /// Whether this digest was reported for any container.
    pub fn mentions(&self, digest: &Fingerprint) -> bool {
        self.runs(digest) || self.shown_as(*digest).next().is_some()
    }

    /// How many running containers can't be identified.
    pub fn unidentified(&self) -> usize {
        self.unidentified
    }

    /// The same with those that are not counted.
    pub fn unidentified_in_all(&self) -> usize {
        self.unidentified + self.uncounted_unidentified
    }

    /// What runs and is not counted.
    pub fn uncounted(&self) -> impl Iterator<Item = &Uncounted> {
        self.uncounted.keys()
    }

    /// Whether an artifact runs, counted or not.
    pub fn runs(&self, fingerprint: &Fingerprint) -> bool {
        let of_it = |it: &Uncounted| it.fingerprint == *fingerprint;
        self.total(fingerprint) > 0 || self.uncounted().any(of_it)
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

/// Whether a pod belongs to a scope, counted or not.
pub fn admits(scope: &Scope, fleet: &Fleet, pod: &Pod) -> bool {
    let namespace = &pod.workload.namespace;
    scope.admits_namespace(namespace, fleet.namespace_labels(namespace)) && admits_pod(scope, pod)
}

/// Whether a pod belongs to a scope if its namespace does, counted or not.
pub fn admits_pod(scope: &Scope, pod: &Pod) -> bool {
    // Labels are unpacked only if there is a selector.
    let labels = scope
        .pod_selector
        .as_ref()
        .map(|_| pod.labels.unpack())
        .unwrap_or_default();
    scope.admits_pod(&labels)
}

/// Counts one more or one less. Whether it is the first, or was the last.
fn step<K: Ord>(counts: &mut BTreeMap<K, u32>, key: K, add: bool) -> bool {
    use std::collections::btree_map::Entry;
    match counts.entry(key) {
        Entry::Occupied(mut entry) if add => *entry.get_mut() += 1,
        Entry::Occupied(mut entry) if *entry.get() > 1 => *entry.get_mut() -= 1,
        Entry::Occupied(entry) => {
            entry.remove();
            return true;
        }
        Entry::Vacant(entry) => {
            debug_assert!(add, "more taken out than put in");
            if add {
                entry.insert(1);
            }
            return add;
        }
    }
    false
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
