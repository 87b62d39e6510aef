//! Makes entries that say the same in fewer words, for when the API server refuses what other people's objects put into
//! them: counts, digests and events are the same, names and texts are left out.

use std::sync::Arc;

use crate::snapshot::{
    cut::{Entry, make_checkpoint},
    ledger::content_hash,
};

/// Reduces entries that were to be appended one after the other. What they leave out stays in their checkpoints, which are
/// opaque, so the state after them is the same.
pub(crate) fn reduce(entries: &mut [Entry]) {
    let mut previous = entries.first().and_then(|it| it.spec.previous.clone());
    for entry in entries {
        *entry = reduced(entry, previous);
        previous = Some(entry.spec.content_hash.clone());
    }
}

fn reduced(entry: &Entry, previous: Option<String>) -> Entry {
    let mut spec = entry.spec.clone();
    spec.previous = previous;
    spec.compliance.reasons.clear();
    spec.compliance.resolved.clear();
    spec.completed_rollouts.clear();
    for change in &mut spec.changes {
        change.name.clone_from(&change.fingerprint);
        change.more_workloads += i64::try_from(change.workloads.len()).unwrap_or(i64::MAX);
        change.workloads.clear();
        change.provenance = None;
        if let Some(verdict) = &mut change.verdict {
            verdict.message.clear();
        }
        if let Some(allowed) = &mut change.allowed {
            allowed.reason.clear();
        }
    }
    let mut after = (*entry.after).clone();
    after.forget_gone(spec.time);
    let (checkpoint, chunks) = make_checkpoint(&after);
    spec.checkpoint = Some(checkpoint);
    spec.content_hash = content_hash(&spec);
    after.advance(&spec);
    if !chunks.is_empty() {
        after.checkpoint_size = chunks.iter().map(String::len).sum();
    }
    Entry {
        spec,
        chunks,
        after: Arc::new(after),
    }
}
