//! Keeps the logs of a failing test whole, when the directory that they are in goes.

use anyhow::{Context as _, Result};
use std::{
    env, fs, io,
    path::{Path, PathBuf},
    thread,
};

/// The logs in a directory, for as long as a test runs. A panic of the test keeps them.
pub(crate) struct KeptLogs<'a> {
    of: &'a Path,
    /// A directory for this test.
    to: PathBuf,
}

impl<'a> KeptLogs<'a> {
    /// Of the test whose thread this is: in `test-logs` beside the programs that cargo built.
    pub(crate) fn of(directory: &'a Path) -> Self {
        let built = env::current_exe().unwrap_or_default();
        // The program is in `deps`.
        let built = built.ancestors().nth(2).unwrap_or(Path::new("."));
        let test = thread::current().name().unwrap_or("test").to_owned();
        KeptLogs {
            of: directory,
            to: built.join("test-logs").join(test.replace("::", "-")),
        }
    }

    /// Copies them, instead of those of an earlier run, and says where they are now.
    pub(crate) fn keep(&self) -> String {
        match self.copy() {
            Ok(()) => format!("whole logs: {}", self.to.display()),
            Err(error) => format!("the logs can't be kept in {}: {error}", self.to.display()),
        }
    }

    fn copy(&self) -> io::Result<()> {
        let _ = fs::remove_dir_all(&self.to);
        fs::create_dir_all(&self.to)?;
        for entry in fs::read_dir(self.of)? {
            let path = entry?.path();
            if let Some(name) = path
                .file_name()
                .filter(|_| path.extension().is_some_and(|it| it == "log"))
            {
                fs::copy(&path, self.to.join(name))?;
            }
        }
        Ok(())
    }
}

/// Runs a test, and keeps the logs in this directory if it panics or fails; the error says where they are then.
///
/// # Errors
/// What the test fails with.
pub async fn kept<T>(directory: &Path, test: impl Future<Output = Result<T>>) -> Result<T> {
    let logs = KeptLogs::of(directory);
    let outcome = test.await;
    outcome.with_context(|| logs.keep())
}

impl Drop for KeptLogs<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.keep());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn a_test_that_panics_leaves_its_logs_whole_and_one_that_passes_leaves_none() {
        let (run, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let log = "a line of a log\n".repeat(10_000);
        fs::write(run.path().join("operator.log"), &log).unwrap();
        fs::write(run.path().join("etcd.data"), "").unwrap();
        let logs = || KeptLogs {
            of: run.path(),
            to: kept.path().join("test"),
        };
        drop(logs());
        assert!(!kept.path().join("test").exists());
        let failed = catch_unwind(AssertUnwindSafe(|| {
            let _logs = logs();
            panic!("on purpose");
        }));
        assert!(failed.is_err());
        let copy = fs::read_to_string(kept.path().join("test/operator.log")).unwrap();
        assert_eq!(copy, log);
        assert!(!kept.path().join("test/etcd.data").exists());
    }
}
