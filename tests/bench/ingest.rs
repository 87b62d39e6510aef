//! Part A: a cluster of many pods through list, watch, decoding and census.

use crate::subject::{Subject, Who};
use anyhow::{Context as _, Result};
use kit::stub::{Contents, LIFE, Stub};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// What a subject did with a cluster of a certain size.
#[derive(Clone, Copy, Debug)]
pub struct Ingest {
    /// From its start to ready.
    pub ready: Duration,
    /// From its start to the first snapshot of what runs, written.
    pub baseline: Option<Duration>,
    /// CPU time until then.
    pub sync_cpu: Duration,
    /// Resident memory when it had come to rest.
    pub idle: u64,
    /// Resident memory after the events.
    pub after: u64,
    /// The most that it ever had.
    pub peak: u64,
    /// CPU time of an event.
    pub event: Duration,
    /// Events a second of wall clock.
    pub rate: f64,
}

/// Measures a subject beside a stub API server, which then sends `events` events.
pub async fn measure(
    who: Who,
    contents: Contents,
    events: usize,
    directory: &Path,
) -> Result<Ingest> {
    let events = events.next_multiple_of(LIFE * 50);
    let stub = Stub::start(contents, directory)?;
    let mut subject = Subject::start(who, &stub.kubeconfig, &[], directory)?;
    let ready = subject.ready().await?;
    let mut baseline = None;
    if who == Who::Shipbell {
        let limit = Instant::now() + Duration::from_secs(240);
        while stub.created("environmentsnapshots").len() < contents.environments
            && Instant::now() < limit
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let created = stub.created("environmentsnapshots");
        let last = created
            .iter()
            .max()
            .with_context(|| format!("no baseline; its log ends\n{}", subject.log_tail()))?;
        baseline = Some(*last - subject.started);
    }
    // Statuses are written about a second later.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let sync_cpu = subject.cpu()?;
    let (idle, _) = subject.memory()?;
    let (mut event, mut rate, mut after) = (Duration::ZERO, 0.0, idle);
    if events > 0 {
        // A tenth first, so that the connection and the allocator are warm.
        let warm = (events / 10).next_multiple_of(LIFE * 50);
        stub.send_events(warm);
        subject.read_events(warm).await?;
        let (cpu, begun) = (subject.cpu()?, Instant::now());
        stub.send_events(events);
        subject.read_events(warm + events).await?;
        #[allow(clippy::cast_precision_loss)]
        {
            rate = events as f64 / begun.elapsed().as_secs_f64();
        }
        event = (subject.cpu()? - cpu) / u32::try_from(events)?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        (after, _) = subject.memory()?;
    }
    let (_, peak) = subject.memory()?;
    Ok(Ingest {
        ready,
        baseline,
        sync_cpu,
        idle,
        after,
        peak,
        event,
        rate,
    })
}
