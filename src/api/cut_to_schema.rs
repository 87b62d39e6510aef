//! Cuts texts that come from the cluster, from evidence or from a registry to what the schemas of the custom resources
//! allow, so that no text that somebody else wrote can make a snapshot or a status unwritable.

use std::borrow::Cow;

use sha2::{Digest as _, Sha256};

use crate::api::snapshot::{Allowed, Provenance};

/// At most how many characters the image of a container has, here and in snapshots.
pub const IMAGE: usize = 1_024;
/// At most how many characters a repository has, as in a record.
pub const REPOSITORY: usize = 512;
/// At most how many characters the kind of a workload has, with its group.
pub const WORKLOAD_KIND: usize = 317;
/// At most how many characters the name of any object has.
pub const NAME: usize = 253;

const URL: usize = 2_048;
const COMMENT: usize = 1_024;
/// How many bytes of the hash of a text stand for what was cut off.
const HASH_BYTES: usize = 5;

/// Cuts a text to this many characters, and replaces control characters, which take six bytes each in JSON. A text that is
/// changed ends in a hash of the whole, so that different texts stay different: they may name workloads.
pub fn cut_to_schema(text: &str, most: usize) -> Cow<'_, str> {
    let fits = text.len() <= most || text.chars().nth(most).is_none();
    if fits && !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let hash = Sha256::digest(text.as_bytes());
    let hash = data_encoding::HEXLOWER.encode(&hash[..HASH_BYTES]);
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let start = text.chars().map(plain);
    let start: String = start.take(most.saturating_sub(hash.len() + 1)).collect();
    Cow::Owned(format!("{start}…{hash}"))
}

fn cut(text: &mut String, most: usize) {
    if let Cow::Owned(shorter) = cut_to_schema(text, most) {
        *text = shorter;
    }
}

impl Provenance {
    /// Cuts all its texts.
    #[must_use]
    pub(crate) fn cut_to_schema(mut self) -> Self {
        cut(&mut self.flow, 128);
        cut(&mut self.name, NAME);
        cut(&mut self.commit, 64);
        cut(&mut self.commit_url, URL);
        cut(&mut self.build_url, URL);
        for deployment in &mut self.deployments {
            cut(&mut deployment.build_url, URL);
        }
        for approval in &mut self.approvals {
            cut(&mut approval.reviewer, NAME);
            cut(&mut approval.comment, COMMENT);
        }
        self
    }
}

impl Allowed {
    /// Cuts all its texts.
    #[must_use]
    pub(crate) fn cut_to_schema(mut self) -> Self {
        cut(&mut self.entry, NAME);
        cut(&mut self.reason, COMMENT);
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_that_fits_stays_as_it_is() {
        for text in ["", "web", "Überprüfung", &"é".repeat(253)] {
            assert_eq!(cut_to_schema(text, NAME), text);
        }
    }

    #[test]
    fn what_is_cut_keeps_its_beginning_and_stays_different_from_others() {
        let cut = |text: &str| cut_to_schema(text, NAME).into_owned();
        let (long, longer) = ("x".repeat(254), "x".repeat(300));
        assert_eq!(cut(&long).chars().count(), 253);
        assert!(cut(&long).starts_with(&"x".repeat(242)));
        assert_ne!(cut(&long), cut(&longer));
        assert_eq!(cut("a\u{7}b"), "a\u{fffd}b…eaef512b06");
        assert_ne!(cut("a\u{7}b"), cut("a\u{8}b"));
    }

    proptest! {
        #![proptest_config(crate::simulation::testing::reader_tries())]

        #[test]
        fn every_text_is_cut_to_its_length_without_control_characters(
            text in "\\PC{0,40}|[\\x00-\\x1f]{0,9}|.{0,400}",
            most in 32..400_usize,
        ) {
            let cut = cut_to_schema(&text, most);
            prop_assert!(cut.chars().count() <= most);
            prop_assert!(!cut.contains(char::is_control));
            let again = cut_to_schema(&cut, most);
            prop_assert_eq!(&again, &cut, "what was cut once stays");
        }
    }
}
