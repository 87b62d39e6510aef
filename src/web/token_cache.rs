//! What is remembered of tokens, and how often the API server may be asked about them. Whoever has no right to read must
//! not keep out those who have it: neither from memory nor from the API server.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{rate::Rate, web::client_address::ClientAddress};

/// How long the answer about a token is used before it is asked again.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(60);
/// How long a token counts as one of a reader after that.
const READER: Duration = Duration::from_secs(3_600);
/// At most this many tokens are remembered: of readers, and of others.
const MOST: usize = 1_024;

/// What a token permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    /// Its user may read.
    Granted,
    /// Its user may not read.
    Denied,
    /// It is no valid token, or not one for this server.
    Invalid,
}

/// The hash of a token.
pub(crate) type TokenHash = [u8; 32];

/// What is remembered of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remembered {
    /// The answer, which is new enough.
    Answer(Permission),
    /// It was that of a reader. The answer has to be asked again.
    Reader,
    Nothing,
}

/// Answers about tokens, by the token's hash: a permission, and when it was given.
#[derive(Debug, Default)]
struct Answers(BTreeMap<TokenHash, (Permission, Instant)>);

impl Answers {
    fn get(&self, token: &TokenHash, now: Instant, within: Duration) -> Option<Permission> {
        let (permission, at) = self.0.get(token)?;
        (now.saturating_duration_since(*at) < within).then_some(*permission)
    }

    /// Remembers an answer, in place of the oldest if there are too many.
    fn put(&mut self, token: TokenHash, permission: Permission, now: Instant) {
        if self.0.len() >= MOST && !self.0.contains_key(&token) {
            let oldest = self.0.iter().min_by_key(|(_, (_, at))| *at);
            if let Some(oldest) = oldest.map(|(token, _)| *token) {
                self.0.remove(&oldest);
            }
        }
        self.0.insert(token, (permission, now));
    }
}

/// What is remembered of tokens.
#[derive(Debug, Default)]
pub(crate) struct TokenCache {
    readers: Answers,
    /// Tokens of others, which anybody can make up.
    others: Answers,
}

impl TokenCache {
    pub(crate) fn get(&self, token: &TokenHash, now: Instant) -> Remembered {
        let answer = self.readers.get(token, now, REMEMBERED);
        let answer = answer.or_else(|| self.others.get(token, now, REMEMBERED));
        match answer {
            Some(permission) => Remembered::Answer(permission),
            None if self.readers.get(token, now, READER).is_some() => Remembered::Reader,
            None => Remembered::Nothing,
        }
    }

    pub(crate) fn put(&mut self, token: TokenHash, permission: Permission, now: Instant) {
        self.readers.0.remove(&token);
        self.others.0.remove(&token);
        match permission {
            Permission::Granted => self.readers.put(token, permission, now),
            Permission::Denied | Permission::Invalid => self.others.put(token, permission, now),
        }
    }
}

/// At most so many addresses are remembered by a [`SharedRate`].
const ADDRESSES: usize = 1_024;

/// A rate of which one client's address gets a part, so that no single one uses it up.
#[derive(Debug)]
pub(crate) struct SharedRate {
    of_all: Rate,
    per_address: u32,
    /// The rate of each address, and when it was asked for last.
    of_addresses: BTreeMap<ClientAddress, (Rate, Instant)>,
}

impl SharedRate {
    /// `count`: of one address, and of all.
    pub(crate) fn per_second(count: (u32, u32)) -> Self {
        Self {
            of_all: Rate::per_second(count.1),
            per_address: count.0,
            of_addresses: BTreeMap::new(),
        }
    }

    /// Whether it may be done now for a client. Then it counts as done.
    pub(crate) fn take(&mut self, from: ClientAddress, now: Instant) -> bool {
        if self.of_addresses.len() >= ADDRESSES && !self.of_addresses.contains_key(&from) {
            let oldest = self.of_addresses.iter().min_by_key(|(_, (_, at))| *at);
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                self.of_addresses.remove(&oldest);
            }
        }
        let new = || (Rate::per_second(self.per_address), now);
        let (own, asked) = self.of_addresses.entry(from).or_insert_with(new);
        *asked = now;
        // What all have used up is not charged to the address.
        own.may(now) && self.of_all.take(now) && own.take(now)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "asks for a moment to count from")]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn hash(number: usize) -> TokenHash {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        hash
    }

    #[test]
    fn made_up_tokens_push_out_each_other_and_no_reader() {
        let start = Instant::now();
        let mut cache = TokenCache::default();
        cache.put(hash(0), Permission::Granted, start);
        for number in 1..3 * MOST {
            let permission = match number % 2 {
                0 => Permission::Invalid,
                _ => Permission::Denied,
            };
            let later = start + Duration::from_millis(number as u64);
            cache.put(hash(number), permission, later);
            assert!(cache.others.0.len() <= MOST);
        }
        let now = start + 4 * SECOND;
        let of = |number| cache.get(&hash(number), now);
        assert_eq!(of(0), Remembered::Answer(Permission::Granted));
        assert_eq!(of(1), Remembered::Nothing);
        assert_eq!(of(3 * MOST - 2), Remembered::Answer(Permission::Invalid));
    }

    #[test]
    fn an_answer_is_asked_again_after_a_minute_and_a_reader_is_known_for_an_hour() {
        let start = Instant::now();
        let mut cache = TokenCache::default();
        cache.put(hash(1), Permission::Granted, start);
        cache.put(hash(2), Permission::Denied, start);
        for (seconds, reader, other) in [
            (
                59,
                Remembered::Answer(Permission::Granted),
                Remembered::Answer(Permission::Denied),
            ),
            (60, Remembered::Reader, Remembered::Nothing),
            (3_600, Remembered::Nothing, Remembered::Nothing),
        ] {
            let now = start + seconds * SECOND;
            assert_eq!(cache.get(&hash(1), now), reader, "{seconds} s");
            assert_eq!(cache.get(&hash(2), now), other, "{seconds} s");
        }
        cache.put(hash(1), Permission::Denied, start + SECOND);
        let revoked = cache.get(&hash(1), start + 61 * SECOND);
        assert_eq!(revoked, Remembered::Nothing, "no reader any more");
    }

    fn address(number: u32) -> ClientAddress {
        ClientAddress::of(number.to_be_bytes().into())
    }

    #[test]
    fn an_address_uses_its_part_of_a_rate_and_leaves_the_rest_to_others() {
        let start = Instant::now();
        let mut rate = SharedRate::per_second((10, 20));
        for second in 0..3 {
            let now = start + second * SECOND;
            let mut taken = |last| (0..100).filter(|_| rate.take(address(last), now)).count();
            let taken = [taken(1), taken(2), taken(3)];
            assert_eq!(taken, [10, 10, 0], "{second} s");
        }
    }

    #[test]
    fn an_address_is_not_charged_for_what_others_have_used_up() {
        let start = Instant::now();
        let mut rate = SharedRate::per_second((10, 20));
        let mut taken = |last, now| (0..100).filter(|_| rate.take(address(last), now)).count();
        assert_eq!([1, 2, 3].map(|last| taken(last, start)), [10, 10, 0]);
        // Half a second later there is something for all again, and the third one has used nothing of its part.
        assert_eq!(taken(3, start + SECOND / 2), 10);
    }

    #[test]
    fn a_rate_remembers_few_addresses_and_the_overall_rate_holds_for_many() {
        let start = Instant::now();
        let mut rate = SharedRate::per_second((10, 20));
        let numbers = 0..10 * u32::try_from(ADDRESSES).unwrap();
        let taken = numbers.filter(|number| rate.take(address(*number), start));
        assert_eq!(taken.count(), 20);
        assert_eq!(rate.of_addresses.len(), ADDRESSES);
    }
}
