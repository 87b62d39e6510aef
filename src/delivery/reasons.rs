//! The closed lists of reasons that delivery writes into status and Kubernetes Events. Each is explained in
//! docs/troubleshooting.md; a test holds that true.

/// Makes an enum of reasons whose names in status are those of its variants.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($variant:ident),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum $name { $($variant),* }

        impl $name {
            #[cfg(test)]
            #[cfg(test)]
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name, as in status.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),* }
            }
        }
    };
}

reasons! {
    /// Why a setting is not ready.
    NotReadyReason {
        SpecInvalid, UrlInvalid, SecretNotFound, SecretKeyMissing, SecretForbidden, DestinationDenied,
        EnvironmentNotFound, EnvironmentNotVisible, NoEnvironments, TooManyEnvironments,
    }
}

reasons! {
    /// What the condition `Delivered` says when no answer of the destination is the reason.
    DeliveredReason { UpToDate, NothingSentYet, Suspended, NotReady, LogUnavailable }
}

reasons! {
    /// Why a range of a log is not sent.
    SkipReason {
        RetryExpired, HistoryTruncated, CursorReset, EnvironmentLeft, EnvironmentNotVisible, EnvironmentDeleted,
    }
}

reasons! {
    /// Why a Kubernetes Event is recorded on a setting.
    EventReason {
        DeliveryFailing, DeliveryRecovered, HistoryTruncated, StatusRefused, TestDelivered, TestFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::outcome::Reason;

    #[test]
    fn every_reason_is_explained_in_the_documents() {
        let documents = include_str!("../../docs/troubleshooting.md");
        let reasons = NotReadyReason::ALL.iter().map(|it| it.as_str());
        let reasons = reasons.chain(DeliveredReason::ALL.iter().map(|it| it.as_str()));
        let reasons = reasons.chain(SkipReason::ALL.iter().map(|it| it.as_str()));
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
