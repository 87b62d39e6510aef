#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "asks the DNS"
)]

//! Resolves host names.
//!
//! A look-up takes a thread until the system's resolver gives up, even when nobody waits any more. So a name is asked
//! for once at a time, a namespace has few look-ups at once, and names that were never resolved quickly take at most
//! half of all threads: whose names don't resolve, or resolve slowly, holds up nobody else.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, ToSocketAddrs as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, timeout},
};
use url::Host;

use crate::http::response::Fault;

/// At most so many threads for names that the last look-up found quickly, and as many again for all others.
const THREADS: usize = 32;
/// At most so many look-ups at once for the settings of one namespace.
const PER_NAMESPACE: usize = 4;
/// How long to wait for an answer. Below the time for a connection, so that a DNS that doesn't answer is called so.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long an answer with addresses is used again. A burst of connections is one look-up; a change of the DNS is seen at once.
const KEEP_FOUND: Duration = Duration::from_secs(5);
/// How long an answer without addresses is used again.
const KEEP_FAILED: Duration = Duration::from_secs(2);
/// How long a name that has no answer here is left to the proxy.
const KEEP_UNKNOWN: Duration = Duration::from_secs(60);
/// How long a look-up may take and be quick.
const QUICK: Duration = Duration::from_secs(1);
/// How long a name counts as one that is found quickly.
const REMEMBER: Duration = Duration::from_hours(1);
/// At most so many addresses of a name are used: whoever owns it may give any number.
const ADDRESSES: usize = 16;
/// At most so many names are remembered.
const MAX_NAMES: usize = 4096;

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum LookupError {
    /// The DNS says that it doesn't exist, or exists without an address.
    #[error("the host name does not exist")]
    NotFound,
    /// The DNS gave no answer, or said that it can't give one now.
    #[error("the DNS gave no answer")]
    Unavailable,
}

impl From<LookupError> for Fault {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::NotFound => Self::NameNotFound,
            LookupError::Unavailable => Self::Dns,
        }
    }
}

pub(super) type Answer = Result<Arc<[SocketAddr]>, LookupError>;
/// Asks the system's resolver; blocks.
pub(super) type ResolveFn = Arc<dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// The system's resolver. Port 0 means that the URL's counts.
pub(super) fn system_lookup() -> ResolveFn {
    Arc::new(|host| {
        let found = (host, 0).to_socket_addrs()?;
        let mut found = alternating(found.collect());
        found.truncate(ADDRESSES);
        Ok(found)
    })
}

/// The addresses of both families in turn, each in their order: where the one leads nowhere, the other is tried soon.
fn alternating(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = found.first().is_some_and(SocketAddr::is_ipv6);
    let (firsts, others): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|it| it.is_ipv6() == first);
    let mut others = others.into_iter();
    let mut mixed = Vec::new();
    for address in firsts {
        mixed.push(address);
        mixed.extend(others.next());
    }
    mixed.extend(others);
    mixed
}

/// All look-ups of the process. Clones share everything.
#[derive(Clone)]
pub(super) struct Lookups(Arc<Shared>);

struct Shared {
    lookup: ResolveFn,
    state: Mutex<State>,
    quick: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    names: HashMap<String, watch::Sender<NameState>>,
    /// Those that look something up now.
    namespaces: HashMap<Arc<str>, Arc<Semaphore>>,
}

#[derive(Clone)]
enum NameState {
    Unknown,
    Running,
    Known {
        answer: Answer,
        at: Instant,
        quick: bool,
    },
}

impl NameState {
    fn fresh(&self) -> Option<Answer> {
        match self {
            Self::Known { answer, at, .. } => {
                let keep = if answer.is_ok() {
                    KEEP_FOUND
                } else {
                    KEEP_FAILED
                };
                (at.elapsed() < keep).then(|| answer.clone())
            }
            Self::Unknown | Self::Running => None,
        }
    }

    fn is_quick(&self) -> bool {
        matches!(self, Self::Known { at, quick: true, .. } if at.elapsed() < REMEMBER)
    }
}

impl Lookups {
    pub(super) fn new(lookup: ResolveFn) -> Self {
        Self(Arc::new(Shared {
            lookup,
            state: Mutex::default(),
            quick: Arc::new(Semaphore::new(THREADS)),
            others: Arc::new(Semaphore::new(THREADS)),
        }))
    }

    /// The addresses of a host, at least one, with any port.
    pub(super) async fn addresses(
        &self,
        host: &Host<&str>,
        namespace: &Arc<str>,
    ) -> Result<Arc<[SocketAddr]>, Fault> {
        match host {
            Host::Domain(name) => Ok(self.resolve(name, namespace).await?),
            Host::Ipv4(ip) => Ok([SocketAddr::new((*ip).into(), 0)].into()),
            Host::Ipv6(ip) => Ok([SocketAddr::new((*ip).into(), 0)].into()),
        }
    }

    pub(super) async fn resolve(&self, host: &str, namespace: &Arc<str>) -> Answer {
        let asked = timeout(PATIENCE, self.ask(host, namespace)).await;
        asked.unwrap_or(Err(LookupError::Unavailable))
    }

    /// The same for a name that a proxy resolves if we can't: one that had no answer is not waited for again for a while, as
    /// where a proxy is needed the DNS often knows nothing of the world outside.
    pub(super) async fn resolve_if_known(&self, host: &str, namespace: &Arc<str>) -> Answer {
        if let NameState::Known { answer, at, .. } = &*self.name(host).borrow()
            && answer.is_err()
            && at.elapsed() < KEEP_UNKNOWN
        {
            return answer.clone();
        }
        self.resolve(host, namespace).await
    }

    async fn ask(&self, host: &str, namespace: &Arc<str>) -> Answer {
        let mut name = self.name(host);
        loop {
            let (running, quick) = {
                let now = name.borrow_and_update();
                if let Some(answer) = now.fresh() {
                    return answer;
                }
                (matches!(*now, NameState::Running), now.is_quick())
            };
            if running {
                // The sender lives in the map as long as anybody listens.
                let _ = name.changed().await;
                continue;
            }
            // Whoever gets a thread first asks for all.
            tokio::select! {
                permits = self.permits(namespace, quick) => self.start(host, permits),
                _ = name.changed() => {}
            }
        }
    }

    /// Waits for a thread: first within the namespace's share, so that few of one namespace wait for the threads of all.
    async fn permits(&self, namespace: &Arc<str>, quick: bool) -> [OwnedSemaphorePermit; 2] {
        let share = self.share(namespace);
        let threads = if quick { &self.0.quick } else { &self.0.others };
        [acquire(share).await, acquire(Arc::clone(threads)).await]
    }

    fn share(&self, namespace: &Arc<str>) -> Arc<Semaphore> {
        let shares = &mut self.state().namespaces;
        shares.retain(|_, share| Arc::strong_count(share) > 1);
        let share = shares.entry(Arc::clone(namespace));
        Arc::clone(share.or_insert_with(|| Arc::new(Semaphore::new(PER_NAMESPACE))))
    }

    /// Starts the look-up unless another has, or has just ended.
    fn start(&self, host: &str, permits: [OwnedSemaphorePermit; 2]) {
        let Some(name) = self.state().names.get(host).cloned() else {
            return;
        };
        let starts = name.send_if_modified(|now| {
            let starts = !matches!(now, NameState::Running) && now.fresh().is_none();
            if starts {
                *now = NameState::Running;
            }
            starts
        });
        if !starts {
            return;
        }
        let (lookup, host) = (Arc::clone(&self.0.lookup), host.to_owned());
        tokio::task::spawn_blocking(move || {
            // Given back when the thread is, not when the one who asked has given up.
            let _permits = permits;
            let began = Instant::now();
            let answer = match lookup(&host) {
                Ok(found) if found.is_empty() => Err(LookupError::NotFound),
                Ok(found) => Ok(found.into()),
                Err(error) => Err(classify(&error)),
            };
            let quick = answer.is_ok() && began.elapsed() < QUICK;
            let at = Instant::now();
            name.send_replace(NameState::Known { answer, at, quick });
        });
    }

    fn name(&self, host: &str) -> watch::Receiver<NameState> {
        let names = &mut self.state().names;
        if names.len() >= MAX_NAMES && !names.contains_key(host) {
            names.retain(|_, name| name.receiver_count() > 0 || name.borrow().is_quick());
            if names.len() >= MAX_NAMES {
                names.retain(|_, name| name.receiver_count() > 0);
            }
        }
        let name = names.entry(host.to_owned());
        name.or_insert_with(|| watch::Sender::new(NameState::Unknown))
            .subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, so a poisoned one is as good as any.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn acquire(semaphore: Arc<Semaphore>) -> OwnedSemaphorePermit {
    semaphore
        .acquire_owned()
        .await
        .expect("no semaphore here is ever closed")
}

/// What the system's resolver says. The standard library keeps the C library's text and drops the code, so the texts of
/// glibc and musl are what there is; whatever else they say may be over soon.
fn classify(error: &io::Error) -> LookupError {
    const NOT_FOUND: [&str; 6] = [
        "Name or service not known",
        "No address associated with hostname",
        "Address family for hostname not supported",
        "Name does not resolve",
        "Name has no usable address",
        "nodename nor servname provided, or not known",
    ];
    let text = error.to_string();
    let not_found = NOT_FOUND.iter().any(|known| text.ends_with(known));
    // A name that can't be asked for at all.
    if not_found || error.kind() == io::ErrorKind::InvalidInput {
        LookupError::NotFound
    } else {
        LookupError::Unavailable
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    };

    use futures::future::join_all;

    use super::*;

    #[test]
    fn addresses_of_both_families_take_turns() {
        let read = |all: &str| -> Vec<SocketAddr> {
            let all = all.split(' ').filter(|it| !it.is_empty());
            all.map(|ip| SocketAddr::new(ip.parse().unwrap(), 0))
                .collect()
        };
        for (found, mixed) in [
            ("", ""),
            ("::1 ::2 ::3 10.0.0.1", "::1 10.0.0.1 ::2 ::3"),
            ("10.0.0.1 10.0.0.2 ::1", "10.0.0.1 ::1 10.0.0.2"),
            ("10.0.0.1 ::1 ::2 ::3", "10.0.0.1 ::1 ::2 ::3"),
        ] {
            assert_eq!(alternating(read(found)), read(mixed));
        }
    }

    fn address() -> SocketAddr {
        "192.0.2.1:0".parse().unwrap()
    }

    fn namespace(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    /// Look-ups that count how often they are asked; names that start with `hang` are answered when the sender is dropped.
    fn counted() -> (Lookups, Arc<AtomicUsize>, mpsc::Sender<()>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let (release, held) = mpsc::channel();
        let (count, held) = (Arc::clone(&asked), Mutex::new(held));
        let held = Arc::new(held);
        let lookups = Lookups::new(Arc::new(move |host| {
            count.fetch_add(1, SeqCst);
            if host.starts_with("hang") {
                while held
                    .lock()
                    .unwrap()
                    .recv_timeout(Duration::from_millis(5))
                    .is_err_and(|error| error == mpsc::RecvTimeoutError::Timeout)
                {}
            }
            Ok(vec![address()])
        }));
        (lookups, asked, release)
    }

    #[tokio::test]
    async fn a_name_is_asked_for_once_however_many_want_it() {
        let (lookups, asked, _release) = counted();
        let nobody = namespace("");
        let answers = join_all((0..200).map(|_| lookups.resolve("a.example", &nobody))).await;
        assert!(
            answers
                .iter()
                .all(|answer| answer.as_deref() == Ok(&[address()]))
        );
        assert_eq!(asked.load(SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_used_for_a_few_seconds() {
        let (lookups, asked, _release) = counted();
        for (seconds, count) in [(0, 1), (4, 1), (2, 2), (4, 2)] {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            lookups.ask("a.example", &namespace("")).await.unwrap();
            assert_eq!(asked.load(SeqCst), count);
        }
    }

    #[tokio::test]
    async fn names_that_hang_hold_up_neither_other_namespaces_nor_their_own_names_for_others() {
        let (lookups, _asked, release) = counted();
        let (hostile, healthy) = (namespace("hostile"), namespace("healthy"));
        let hosts: Vec<_> = (0..200).map(|n| format!("hang-{n}.example")).collect();
        // The hostile namespace wants the others' name, too, and waits for it behind its own.
        let hanging = hosts.iter().map(String::as_str).chain(["shared.example"]);
        let mut hanging = Box::pin(join_all(hanging.map(|host| lookups.ask(host, &hostile))));
        assert!(futures::poll!(&mut hanging).is_pending());
        for host in ["shared.example", "b.example"] {
            assert!(lookups.ask(host, &healthy).await.is_ok());
        }
        drop(release);
        hanging.await;
    }

    #[tokio::test]
    async fn names_that_hang_in_many_namespaces_leave_threads_to_names_that_are_known() {
        let (lookups, _asked, release) = counted();
        let known = namespace("known");
        lookups.ask("known.example", &known).await.unwrap();
        let hosts: Vec<_> = (0..200).map(|n| format!("hang-{n}.example")).collect();
        let hanging = hosts
            .iter()
            .map(async |host| lookups.ask(host, &namespace(host)).await);
        let mut hanging = Box::pin(join_all(hanging));
        assert!(futures::poll!(&mut hanging).is_pending());
        assert_eq!(lookups.0.others.available_permits(), 0);
        // As if the answer were too old to be used again.
        let name = lookups.state().names["known.example"].clone();
        name.send_modify(|now| {
            if let NameState::Known { at, .. } = now {
                *at -= KEEP_FOUND;
            }
        });
        assert!(lookups.ask("known.example", &known).await.is_ok());
        drop(release);
        hanging.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_dns_that_gives_no_answer_is_called_so_in_time() {
        let (lookups, _asked, release) = counted();
        let nobody = namespace("");
        let (answer, ()) = futures::join!(
            lookups.resolve("hang.example", &nobody),
            tokio::time::advance(PATIENCE)
        );
        assert_eq!(answer, Err(LookupError::Unavailable));
        drop(release);
    }

    #[test]
    fn only_a_name_that_does_not_exist_is_not_found() {
        let said = |text: &str| {
            let text = format!("failed to lookup address information: {text}");
            classify(&io::Error::other(text))
        };
        for text in [
            "Name or service not known",
            "No address associated with hostname",
            "Name does not resolve",
        ] {
            assert_eq!(said(text), LookupError::NotFound, "{text}");
        }
        for text in [
            "Temporary failure in name resolution",
            "Non-recoverable failure in name resolution",
            "Try again",
            "System error",
            "Memory allocation failure",
        ] {
            assert_eq!(said(text), LookupError::Unavailable, "{text}");
        }
        assert_eq!(
            classify(&io::Error::from_raw_os_error(11)),
            LookupError::Unavailable
        );
        // The system's resolver itself: a label that is too long is never asked for.
        let long = system_lookup()(&format!("{}.example", "a".repeat(64)));
        assert_eq!(classify(&long.unwrap_err()), LookupError::NotFound);
    }

    #[tokio::test]
    async fn names_are_forgotten() {
        let (lookups, _asked, _release) = counted();
        for n in 0..MAX_NAMES + 100 {
            let host = format!("{n}.example");
            lookups.ask(&host, &namespace(&host)).await.unwrap();
        }
        let state = lookups.state();
        assert!(state.names.len() <= MAX_NAMES);
        // A thread may give its share back a little after its answer.
        assert!(state.namespaces.len() <= 2 * THREADS);
    }
}
