//! The closed lists of reasons that delivery writes into status and Kubernetes Events. Each is explained in
//! docs/troubleshooting.md; a test holds that true.

use crate::api::condition::reasons;

reasons! {
    /// Why a setting is not ready.
    pub(crate) enum NotReadyReason {
        SpecInvalid, UrlInvalid, SecretNotFound, SecretKeyMissing, SecretForbidden, DestinationUnknown,
        DestinationDenied, EnvironmentNotFound, NoEnvironments, TooManyEnvironments,
    }
}

reasons! {
    /// What the conditions `Ready` and `Reconciling` say when no `NotReadyReason` is their reason.
    pub(crate) enum ReadyReason { Valid, Waiting }
}

reasons! {
    /// What the condition `Delivered` says when no answer of the destination is the reason.
    pub(crate) enum DeliveredReason {
        UpToDate, NothingSentYet, Suspended, NotReady, LogUnavailable, WaitingForTurn,
    }
}

reasons! {
    /// Why a range of a log is not sent.
    pub(crate) enum SkipReason {
        RetryExpired, HistoryTruncated, CursorReset, EnvironmentLeft, EnvironmentNotVisible, EnvironmentDeleted,
    }
}

reasons! {
    /// What became of a replay.
    pub(crate) enum ReplayReason {
        Running, Delivered, Refused, RequestInvalid, EnvironmentNotFollowed, EventNotFound, HistoryTruncated, NotSentYet,
        TooManyEvents, RetryExpired, Canceled,
    }
}

reasons! {
    /// Why a Kubernetes Event is recorded on a setting.
    pub(crate) enum EventReason {
        DeliveryFailing, DeliveryRecovered, HistoryTruncated, StatusRefused, TestDelivered, TestFailed, ReplayStarted,
        ReplayDelivered, ReplayCanceled, ReplayEnded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::response::Reason;

    #[test]
    fn every_reason_is_explained_in_the_documents() {
        let documents = include_str!("../../docs/troubleshooting.md");
        let reasons = NotReadyReason::ALL.iter().map(|it| it.as_str());
        let reasons = reasons.chain(ReadyReason::ALL.iter().map(|it| it.as_str()));
        let reasons = reasons.chain(DeliveredReason::ALL.iter().map(|it| it.as_str()));
        let reasons = reasons.chain(SkipReason::ALL.iter().map(|it| it.as_str()));
        let reasons = reasons.chain(ReplayReason::ALL.iter().map(|it| it.as_str()));
        let reasons = reasons.chain(EventReason::ALL.iter().map(|it| it.as_str()));
        let reasons = reasons.chain(Reason::ALL.iter().map(|it| it.as_str()));
        let missing: Vec<_> = reasons
            .filter(|reason| !documents.contains(&format!("\n| `{reason}` |")))
            .collect();
        assert!(
            missing.is_empty(),
            "docs/troubleshooting.md lacks {missing:?}"
        );
    }
}
