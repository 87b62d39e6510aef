//! How fast the log of one environment may grow: so slowly that nobody can push a change out of it while its receivers may
//! still be down. Of the room of a log a quarter may be written at once, another quarter during the time for which
//! deliveries are retried, and then again in each such time. When that is used up, an eighth is lent and another quarter in
//! that time given to the namespaces, each an equal part, so that one that changes too much delays only itself. The rest is
//! for the changes that go beyond, and for compliance, which never waits.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    api::{EnvironmentSnapshotSpec, snapshot::Change},
    snapshot::{ledger::size_of_change, retention::ENVIRONMENT_CAP},
    time::Moment,
};

/// For how long deliveries are retried by default. In that time an environment saves up what may be written at once.
const RETRIED: Duration = Duration::from_secs(72 * 3_600);
/// How many bytes a second are written for an environment on average.
const BYTES_PER_SECOND: u64 = ENVIRONMENT_CAP / 4 / RETRIED.as_secs();
/// In how long a namespace saves up what is lent to it.
const LENT: Duration = Duration::from_secs(RETRIED.as_secs() / 2);
/// As much as for its changes may be written for the checkpoints that follow from them.
const WITH_CHECKPOINTS: usize = 2;

/// How much has been written for an environment.
#[derive(Clone, Debug, Default)]
pub struct WriteRate {
    /// When so much could have been written at the average rate.
    until: Moment,
    /// The same for the changes of each namespace, at its part of that rate.
    namespaces: BTreeMap<Arc<str>, Moment>,
}

/// When so many bytes more could have been written at the average rate, if it is shared by so many.
fn spend(until: Moment, bytes: usize, sharers: usize, now: Moment) -> Moment {
    let shared = bytes.saturating_mul(sharers.max(1));
    let seconds = u64::try_from(shared).unwrap_or(u64::MAX) / BYTES_PER_SECOND;
    until.max(now) + Duration::from_secs(seconds)
}

impl WriteRate {
    /// An entry of so many bytes has been written. `sharers`: how many namespaces there are. What changes in more workloads
    /// than an entry lists is nothing that a namespace borrows.
    pub fn note(
        &mut self,
        bytes: usize,
        spec: &EnvironmentSnapshotSpec,
        sharers: usize,
        now: Moment,
    ) {
        self.until = spend(self.until, bytes, 1, now);
        self.namespaces.retain(|_, until| *until > now);
        let listed = |change: &&Change| change.more_workloads == 0;
        for change in spec.changes.iter().filter(listed) {
            let each = WITH_CHECKPOINTS * size_of_change(change) / change.workloads.len().max(1);
            for workload in &change.workloads {
                let namespace = Arc::from(&*workload.namespace);
                let until = self.namespaces.entry(namespace).or_default();
                *until = spend(*until, each, sharers, now);
            }
        }
    }

    /// When a change may be written that takes the whole state, or whose namespace has borrowed too much.
    pub fn next_whole(&self) -> Moment {
        self.until.before(RETRIED)
    }

    /// When a change of a namespace may be written.
    pub fn next_of(&self, namespace: &str) -> Moment {
        let borrowed = self.namespaces.get(namespace).copied().unwrap_or_default();
        self.next_whole().min(borrowed.before(LENT))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::snapshot::WorkloadChange;

    fn change_in(namespace: usize, bytes: usize) -> EnvironmentSnapshotSpec {
        let workload = WorkloadChange {
            kind: "Deployment".to_owned(),
            namespace: namespace.to_string(),
            name: "web".to_owned(),
            was: 0,
            now: 1,
            rolling: false,
        };
        let change = Change {
            name: "x".repeat(bytes),
            workloads: vec![workload],
            ..Change::default()
        };
        EnvironmentSnapshotSpec {
            changes: vec![change],
            ..EnvironmentSnapshotSpec::default()
        }
    }

    proptest! {
        /// Whatever the namespaces do, in the time of retries an environment writes less than its log holds, but for the last
        /// change of each.
        #[test]
        fn no_change_is_pushed_out_of_the_log_while_its_delivery_is_retried(
            writes in prop::collection::vec((0..5_usize, 1..1_000_000_usize, 0..20_000_u64), 1..200),
        ) {
            let mut rate = WriteRate::default();
            let start = Moment::from_secs(1_000_000);
            let (mut now, mut written, mut last) = (start, 0, [0; 5]);
            for (namespace, bytes, idle) in writes {
                now = (now + Duration::from_secs(idle)).max(rate.next_of(&namespace.to_string()));
                if now - start > RETRIED {
                    break;
                }
                let spec = change_in(namespace, bytes);
                let bytes = WITH_CHECKPOINTS * size_of_change(&spec.changes[0]);
                rate.note(bytes, &spec, 5, now);
                written += bytes;
                last[namespace] = bytes.max(last[namespace]);
            }
            let beyond = 2 * last.iter().sum::<usize>();
            let room = usize::try_from(ENVIRONMENT_CAP).unwrap() / 8 * 7;
            prop_assert!(written <= room + beyond, "{written} {beyond}");
        }
    }

    #[test]
    fn a_quarter_of_the_log_is_written_without_delay_and_a_namespace_that_writes_more_delays_only_itself()
     {
        let mut rate = WriteRate::default();
        let now = Moment::from_secs(1_000_000);
        for _ in 0..16 {
            assert!(rate.next_of("0") <= now && rate.next_whole() <= now);
            rate.note(512 << 10, &change_in(0, 512 << 10), 3, now);
        }
        rate.note(512 << 10, &change_in(0, 512 << 10), 3, now);
        assert!(rate.next_whole() > now);
        assert_eq!(rate.next_of("0"), rate.next_whole());
        for _ in 0..100 {
            assert!(rate.next_of("1") <= now);
            rate.note(2_000, &change_in(1, 800), 3, now);
        }
        let next = rate.next_whole();
        assert_eq!(rate.next_of("0"), next);
        assert!(rate.next_of("1") <= now && rate.next_of("2") <= now);
    }
}
