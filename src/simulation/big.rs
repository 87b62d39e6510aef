//! Cuts and checkpoints that are too big for one object.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    api::environment::EnvironmentId,
    api::{
        EnvironmentSnapshotSpec, EnvironmentSpec,
        snapshot::{Cause, Identity, IdentitySource, MAX_CHANGES, MAX_IDENTITIES, MAX_WORKLOADS},
    },
    cluster::{
        fleet::Fleet,
        pod_view::{ContainerView, Decoded, Meta, Owner, PodView},
        watch_progress::WatchKind,
    },
    simulation::{empty_state, seconds, testing::digest},
    snapshot::{
        cut::Entry,
        event,
        ledger::{Ledger, content_hash},
        state::{ClusterState, Plan},
    },
    time::Moment,
};

const ROLLOUT: Duration = Duration::from_mins(15);

/// A state with one environment whose baseline is written, and the ledger after it as a reader of the log has it.
struct Big {
    state: ClusterState,
    now: Moment,
    reader: Fleet,
    read: Ledger,
    serial: u32,
    /// How many bytes more are written with each entry, as if it was that big.
    more_bytes: usize,
}

impl Big {
    fn new(pods: &[PodView]) -> (Self, Entry) {
        let now = Moment::from_secs(1_000);
        let mut state = empty_state(true, now);
        state.environment_seen(
            &EnvironmentId::new("big", "uid"),
            &EnvironmentSpec::default(),
            now,
        );
        state.list_begins(WatchKind::Pods);
        for pod in pods {
            state.seen::<PodView>(Decoded::Good(pod.clone()), true, now);
        }
        state.list_ends(WatchKind::Pods, 1, now, now);
        state.log_is_blank(&EnvironmentId::new("big", "uid"), None, Cause::Baseline);
        let mut reader = Fleet::default();
        let mut serial = 0;
        let entry = plan(&mut state, now).remove(0);
        let read = restored(&entry, &mut reader);
        state.appended(
            &EnvironmentId::new("big", "uid"),
            &entry,
            Duration::ZERO,
            now,
        );
        serial += 1;
        let big = Self {
            state,
            now,
            reader,
            read,
            serial,
            more_bytes: 0,
        };
        (big, entry)
    }

    /// These pods are all that there is from now on; what is then appended, read by the reader entry by entry.
    fn becomes(&mut self, pods: &[PodView]) -> Vec<EnvironmentSnapshotSpec> {
        self.now += seconds(60);
        self.list(pods);
        self.now += seconds(31);
        let mut appended = vec![];
        for _ in 0..10 {
            let entries = self.cut();
            if entries.is_empty() {
                break;
            }
            appended.extend(entries.into_iter().map(|entry| entry.spec));
            self.now += seconds(2);
        }
        appended
    }

    /// A list has these pods.
    fn list(&mut self, pods: &[PodView]) {
        self.serial += 1;
        self.state.list_begins(WatchKind::Pods);
        for pod in pods {
            self.state
                .seen::<PodView>(Decoded::Good(pod.clone()), true, self.now);
        }
        let version = u64::from(self.serial);
        self.state
            .list_ends(WatchKind::Pods, version, self.now, self.now);
    }

    /// What is appended now, read by the reader.
    fn cut(&mut self) -> Vec<Entry> {
        for kind in WatchKind::ALL {
            self.state.bookmark(kind, u64::from(self.serial), self.now);
        }
        let plan = self.state.plan("big", self.now, wall(self.now));
        let Plan::Append(entries) = plan else {
            return vec![];
        };
        for entry in &entries {
            self.read_next(entry);
            let mut written = entry.clone();
            written.chunks.push("x".repeat(self.more_bytes));
            self.state.appended(
                &EnvironmentId::new("big", "uid"),
                &written,
                Duration::ZERO,
                self.now,
            );
        }
        entries
    }

    fn read_next(&mut self, entry: &Entry) {
        let spec = &entry.spec;
        let size = serde_json::to_vec(spec).unwrap().len();
        assert!(size < 400_000, "{size} bytes");
        let written = size + entry.chunks.concat().len();
        assert!(written < 2 * entry.size() + 4_000, "{written} bytes");
        assert!(spec.changes.len() <= MAX_CHANGES && spec.identities.len() <= MAX_IDENTITIES);
        assert_eq!(spec.content_hash, content_hash(spec));
        assert_eq!(spec.previous.as_deref(), Some(&*self.read.content_hash));
        let whole = spec.changes.iter().any(|change| change.more_workloads > 0);
        if whole {
            let lost = self.read.clone().apply(spec, ROLLOUT, &mut self.reader);
            assert!(lost.is_err(), "the entry alone doesn't tell all");
            self.read = restored(entry, &mut self.reader);
        } else {
            self.read.apply(spec, ROLLOUT, &mut self.reader).unwrap();
        }
        assert_eq!(self.read.cells(), entry.after.cells());
        assert_eq!(self.read.identities, entry.after.identities);
        assert_eq!(self.read.totals(), spec.totals);
    }
}

fn wall(now: Moment) -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_800_000_000).unwrap()
        + jiff::SignedDuration::try_from(now.since_start()).unwrap()
}

fn plan(state: &mut ClusterState, now: Moment) -> Vec<Entry> {
    match state.plan("big", now, wall(now)) {
        Plan::Append(draft) => draft,
        other => panic!("{other:?}"),
    }
}

fn restored(entry: &Entry, fleet: &mut Fleet) -> Ledger {
    let checkpoint = entry.spec.checkpoint.as_ref().unwrap();
    let chunks = i64::try_from(entry.chunks.len()).unwrap();
    assert_eq!(checkpoint.chunks, (chunks > 0).then_some(chunks));
    assert_eq!(checkpoint.data.is_some(), chunks == 0);
    assert!(entry.chunks.iter().all(|chunk| chunk.len() < 400_000));
    let data = checkpoint.data.clone();
    let data = data.unwrap_or_else(|| entry.chunks.concat());
    let ledger = Ledger::restore(&entry.spec, &data, fleet).unwrap();
    assert_eq!(ledger.cells(), entry.after.cells());
    assert_eq!(ledger.names, entry.after.names);
    ledger
}

/// The running pod `number` of a `DaemonSet`.
fn pod(number: usize, workload: &str, image: &str) -> PodView {
    let image_id = format!("registry.example/{image}@sha256:{}", digest(image));
    PodView {
        meta: Meta {
            namespace: "a-namespace-of-some-length".to_owned(),
            name: format!("{workload}-{number}"),
            uid: number as u128,
            version: 1,
        },
        generation: 1,
        owner: Some(Owner {
            kind: "DaemonSet.apps".to_owned(),
            name: workload.to_owned(),
        }),
        containers: vec![ContainerView {
            name: "main".to_owned(),
            image: format!("registry.example/{image}"),
            image_id,
            container_id: format!("containerd://{number}"),
            active: true,
            silent: false,
            once: false,
        }],
        labels: BTreeMap::new(),
        ..PodView::default()
    }
}

#[test]
fn a_cut_of_three_thousand_artifacts_is_split_into_parts_that_continue_each_other() {
    let (mut big, _) = Big::new(&[]);
    let pods: Vec<_> = (0..3_000)
        .map(|number| {
            pod(
                number,
                &format!("workload-{number}"),
                &format!("image-{number:04}"),
            )
        })
        .collect();
    let parts = big.becomes(&pods);
    let of = i64::try_from(parts.len()).unwrap();
    assert!(of >= 3, "{of}");
    for (number, spec) in (1..).zip(&parts) {
        let cut = spec.cut.unwrap();
        assert_eq!((cut.first, cut.part, cut.of), (2, number, of));
        assert_eq!(spec.events.len(), spec.changes.len());
    }
    let names: Vec<_> = parts
        .iter()
        .flat_map(|spec| spec.changes.iter().map(|change| &change.name))
        .collect();
    assert_eq!(names.len(), 3_000);
    assert!(names.is_sorted());
    let ids: std::collections::BTreeSet<_> = parts
        .iter()
        .flat_map(|spec| (0..spec.events.len()).map(|ordinal| event::id(spec, ordinal)))
        .collect();
    assert_eq!(ids.len(), 3_000);
    let gone = big.becomes(&[]);
    assert!(gone.len() >= 3);
    assert_eq!(big.read.totals().artifacts, 0);
}

#[test]
fn an_artifact_in_ten_thousand_workloads_is_read_from_the_checkpoint() {
    let (mut big, _) = Big::new(&[]);
    let pods: Vec<_> = (0..10_000)
        .map(|number| pod(number, &format!("workload-{number}"), "agent"))
        .collect();
    let appended = big.becomes(&pods);
    assert_eq!(appended.len(), 1);
    let change = &appended[0].changes[0];
    assert_eq!((change.was, change.now), (0, 10_000));
    assert_eq!(change.workloads.len(), MAX_WORKLOADS);
    assert_eq!(change.more_workloads, 9_800);
    // What comes next is read by itself again.
    let appended = big.becomes(&pods[..9_999]);
    assert_eq!(appended.len(), 1);
    assert!(appended[0].checkpoint.is_none());
    assert_eq!(big.read.totals().instances, 9_999);
}

#[test]
fn a_cut_in_parts_writes_the_whole_state_once_with_the_last_of_them() {
    // Images that change in more workloads than an entry lists, and others.
    for (many, others) in [(40, 0), (10, 900), (0, 1_100)] {
        let pods = |revision: usize| -> Vec<_> {
            let others = (0..others).map(|it| {
                let image = format!("image-{it:04}-{revision}");
                pod(10_000 * revision + it, &format!("workload-{it}"), &image)
            });
            let many = (0..201).map(|it| {
                let mut pod = pod(
                    10_000 * revision + 5_000 + it,
                    &format!("agent-{it}"),
                    "none",
                );
                let main = pod.containers.remove(0);
                pod.containers.extend((0..many).map(|number| {
                    let mut container = main.clone();
                    let image = format!("many-{number}-{revision}");
                    container.name = format!("main-{number}");
                    container.image_id =
                        format!("registry.example/{image}@sha256:{}", digest(&image));
                    container.container_id = format!("{}-{number}", main.container_id);
                    container
                }));
                pod
            });
            others.chain(many).collect()
        };
        let (mut big, _) = Big::new(&[]);
        for revision in 0..2 {
            let parts = big.becomes(&pods(revision));
            assert_eq!(parts.len() > 1, others > 0, "{many} {others}");
            let whole: Vec<_> = parts.iter().map(|spec| spec.checkpoint.is_some()).collect();
            let (last, rest) = whole.split_last().unwrap();
            assert!(*last && !rest.contains(&true), "{many} {others}: {whole:?}");
            let ordered = parts.iter().flat_map(|spec| &spec.changes);
            let ordered = ordered.map(|it| (it.more_workloads > 0, &it.name, &it.fingerprint));
            assert!(ordered.is_sorted());
        }
    }
}

#[test]
fn what_changes_in_many_workloads_waits_if_the_log_grows_too_fast_and_delays_nothing_else() {
    let pods = |agent: usize, other: usize| -> Vec<_> {
        let image = format!("agent-{agent}");
        let many = (0..300).map(|it| pod(1_000 * agent + it, &format!("workload-{it}"), &image));
        let other = pod(9_000 + other, "other", &format!("other-{other}"));
        many.chain([other]).collect()
    };
    let (mut big, _) = Big::new(&pods(1, 1));
    let names = |entries: Vec<Entry>| -> Vec<String> {
        let changes = entries.into_iter().flat_map(|it| it.spec.changes);
        let name = |name: &str| {
            name.trim_end_matches(":latest")
                .rsplit('/')
                .next()
                .unwrap()
                .to_owned()
        };
        changes.map(|change| name(&change.name)).collect()
    };
    big.list(&pods(2, 1));
    big.now += seconds(31);
    big.more_bytes = 7 << 20;
    assert_eq!(names(big.cut()), ["agent-1", "agent-2"]);
    big.more_bytes = 0;

    big.list(&pods(3, 2));
    big.now += seconds(31);
    assert_eq!(names(big.cut()), ["other-1", "other-2"]);
    assert_eq!(names(big.cut()), [""; 0]);
    big.now += seconds(30);
    assert_eq!(names(big.cut()), ["agent-2", "agent-3"]);
}

#[test]
fn a_checkpoint_of_ten_thousand_cells_goes_into_chunks() {
    let pods: Vec<_> = (0..10_000)
        .map(|number| {
            pod(
                number,
                &format!("workload-{number}"),
                &format!("image-{}", number % 9_000),
            )
        })
        .collect();
    let (mut big, baseline) = Big::new(&pods);
    assert!(baseline.chunks.len() > 1, "{}", baseline.chunks.len());
    assert_eq!(baseline.after.totals().instances, 10_000);
    let other = "0".repeat(10);
    assert!(Ledger::restore(&baseline.spec, &other, &mut Fleet::default()).is_err());
    let short = baseline.chunks[0].clone();
    assert!(
        Ledger::restore(&baseline.spec, &short, &mut Fleet::default()).is_err(),
        "a checkpoint that lacks a chunk is not read as a smaller one"
    );
    let appended = big.becomes(&pods[..9_999]);
    assert_eq!(appended.len(), 1);
    assert!(
        appended[0].checkpoint.is_none(),
        "one change doesn't write everything again"
    );
}

#[test]
fn many_identities_are_written_a_thousand_at_a_time() {
    let called = |by: &'static str| {
        let pods = (0..2_500).map(move |number| {
            let workload = format!("workload-{number}");
            let mut pod = pod(number, &workload, &format!("image-{number}"));
            pod.containers[0].image_id = crate::simulation::image_id(&format!("{by}-{number}"));
            pod
        });
        pods.collect::<Vec<_>>()
    };
    let (mut big, _) = Big::new(&[]);
    let mut appended = big.becomes(&called("image"));
    appended.extend(big.becomes(&called("other")));
    let identities: usize = appended.iter().map(|spec| spec.identities.len()).sum();
    assert_eq!(identities, 2_500);
    assert_eq!(big.read.containers.len(), 2_500);
    let events: usize = appended.iter().map(|spec| spec.events.len()).sum();
    assert_eq!(events, 2_500);
}

#[test]
fn an_entry_out_of_its_place_is_refused() {
    let (mut big, _) = Big::new(&[]);
    let before = big.read.clone();
    let first = big.becomes(&[pod(1, "one", "v1")]).remove(0);
    let second = big.becomes(&[pod(2, "one", "v2")]).remove(0);
    let mut fleet = Fleet::default();
    let mut ledger = before.clone();
    assert!(ledger.apply(&second, ROLLOUT, &mut fleet).is_err());
    ledger.apply(&first, ROLLOUT, &mut fleet).unwrap();
    assert!(ledger.apply(&first, ROLLOUT, &mut fleet).is_err());
    let mut forged = second.clone();
    forged.changes[0].workloads[0].now = -1;
    assert!(ledger.clone().apply(&forged, ROLLOUT, &mut fleet).is_err());
    forged.changes[0].fingerprint = "not a digest".to_owned();
    assert!(ledger.clone().apply(&forged, ROLLOUT, &mut fleet).is_err());
    ledger.apply(&second, ROLLOUT, &mut fleet).unwrap();
    assert_eq!(ledger.cells(), big.read.cells());
}

#[test]
fn a_log_that_ties_digests_because_of_one_container_is_read_and_ties_none() {
    // As logs before 0.1.0 did.
    let (big, baseline) = Big::new(&[pod(1, "one", "v1"), pod(2, "two", "v2")]);
    let (v1, v2) = (digest("v1"), digest("v2"));
    let mut fleet = Fleet::default();
    for (source, tied) in [(IdentitySource::Runtime, 0), (IdentitySource::Record, 1)] {
        let entry = EnvironmentSnapshotSpec {
            index: big.read.index + 1,
            previous: Some(big.read.content_hash.clone()),
            identities: vec![Identity {
                alias: v2.to_string(),
                fingerprint: v1.to_string(),
                source,
                container: None,
                repository: None,
            }],
            ..EnvironmentSnapshotSpec::default()
        };
        let mut ledger = big.read.clone();
        ledger.apply(&entry, ROLLOUT, &mut fleet).unwrap();
        assert_eq!(ledger.identities.len(), tied);
        assert_eq!(ledger.total(&v1), 2, "it renamed what was recorded");
        let state = zstd::decode_all(&*STANDARD.decode(ledger.checkpoint()).unwrap()).unwrap();
        let mut state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        state["identities"] = serde_json::json!({v2.to_string(): v1.to_string()});
        let state = zstd::encode_all(&*serde_json::to_vec(&state).unwrap(), 3).unwrap();
        let read = Ledger::restore(&baseline.spec, &STANDARD.encode(state), &mut fleet).unwrap();
        assert_eq!(read.identities.len(), tied);
    }
}
