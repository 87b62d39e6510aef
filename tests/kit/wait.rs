//! Waiting without bare sleeps: for what must come, and for what must not.

use anyhow::{Error, Result, bail};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

const POLL: Duration = Duration::from_millis(50);

/// What a check may return: `bool`, `Option<T>`, `()` (done), or a `Result` of one of them.
///
/// An error means "not yet", so a check can be written with `ensure!`, whose message then is what the failure
/// says was last seen.
pub trait Seen {
    /// What a successful check yields.
    type Value;

    /// The value, or what was seen instead.
    fn seen(self) -> Result<Self::Value, String>;
}

impl Seen for () {
    type Value = ();

    fn seen(self) -> Result<(), String> {
        Ok(())
    }
}

impl Seen for bool {
    type Value = ();

    fn seen(self) -> Result<(), String> {
        if self {
            Ok(())
        } else {
            Err("it is not so".to_owned())
        }
    }
}

impl<T> Seen for Option<T> {
    type Value = T;

    fn seen(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

impl<S: Seen, E: Into<Error>> Seen for Result<S, E> {
    type Value = S::Value;

    fn seen(self) -> Result<S::Value, String> {
        self.map_err(|error| format!("{:#}", error.into()))
            .and_then(Seen::seen)
    }
}

/// Checks every 50 ms until it is so, and fails after `timeout` with what was waited for and last seen.
pub async fn eventually<S: Seen>(
    timeout: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> S,
) -> Result<S::Value> {
    let deadline = Instant::now() + timeout;
    let mut last = "nothing: the first check never ended".to_owned();
    loop {
        // A check that hangs ends with the deadline too.
        match timeout_at(deadline, check()).await.map(Seen::seen) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = seen,
            Err(_) => bail!("waited {timeout:?} for {what}; last seen: {last}"),
        }
        if Instant::now() + POLL > deadline {
            bail!("waited {timeout:?} for {what}; last seen: {last}");
        }
        sleep(POLL).await;
    }
}

/// Checks every 50 ms that it is so and stays so for `time`, as when nothing more may come.
pub async fn stays<S: Seen>(
    time: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> S,
) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < time {
        if let Err(seen) = check().await.seen() {
            bail!("{what} ended after {:?}; seen: {seen}", started.elapsed());
        }
        sleep(POLL).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;

    #[tokio::test]
    async fn what_comes_is_returned() {
        let mut left = 3;
        let value = eventually(Duration::from_secs(5), "zero", async || {
            left -= 1;
            Ok::<_, anyhow::Error>((left == 0).then_some("done"))
        });
        assert_eq!(value.await.unwrap(), "done");
    }

    #[tokio::test]
    async fn the_failure_says_what_was_last_seen() {
        let error = eventually(Duration::from_millis(120), "three pods", async || {
            ensure!(1 == 3, "1 pod");
            Ok(())
        })
        .await
        .unwrap_err()
        .to_string();
        assert!(
            error.contains("three pods") && error.contains("1 pod"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_check_that_hangs_ends_with_the_deadline() {
        let check = eventually(Duration::from_millis(60), "ever", async || {
            std::future::pending::<bool>().await
        });
        assert!(check.await.is_err());
    }

    #[tokio::test]
    async fn what_must_stay_is_checked_to_the_end() {
        let mut checks = 0;
        let held = stays(Duration::from_millis(300), "few", async || {
            checks += 1;
            checks < 3
        });
        assert!(held.await.is_err());
    }
}
