//! Child processes that never outlive the test.
//!
//! Dropping one kills it. A test that is itself killed drops nothing, so the kernel is told to kill the
//! children too (`PR_SET_PDEATHSIG`). That follows the parent *thread*, and test threads end early: all
//! children are started by one thread that ends with the process.

use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, mpsc},
    thread,
};

/// How much of a log a failure shows.
const TAIL: usize = 4000;

/// A running program and its log.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `log`.
    pub(crate) fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let program = command.get_program().to_string_lossy().into_owned();
        let child =
            on_the_lasting_thread(command).with_context(|| format!("cannot run {program}"))?;
        Ok(Process {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// The exit status, once there is one.
    pub(crate) fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails, showing the log's tail, when the program has ended.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        if let Some(status) = self.exited()? {
            bail!(
                "{} ended ({status}); its log ends\n{}",
                self.name,
                self.log_tail()
            );
        }
        Ok(())
    }

    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends any other signal, unless the program has ended.
    pub(crate) fn signal(&mut self, signal: &str) -> Result<()> {
        if self.exited()?.is_some() {
            bail!("{} has ended: no SIG{signal} for it", self.name);
        }
        // The shell's builtin: no unsafe, and `kill` is in every POSIX shell.
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{signal} {}", self.id())])
            .status()?;
        anyhow::ensure!(status.success(), "kill -{signal} of {} failed", self.name);
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The end of a log file.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text[text.len().saturating_sub(TAIL)..]).into_owned()
}

type Job = (Command, mpsc::Sender<io::Result<Child>>);

fn on_the_lasting_thread(command: Command) -> io::Result<Child> {
    static THREAD: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
        let (jobs, todo) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name("kit-processes".to_owned())
            .spawn(move || {
                for (mut command, answer) in todo {
                    let _ = answer.send(die_with_parent(&mut command).spawn());
                }
            })
            .expect("a thread can be started");
        jobs
    });
    let gone = || io::Error::other("the thread that starts processes is gone");
    let (answer, answered) = mpsc::channel();
    THREAD.send((command, answer)).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}

#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) -> &mut Command {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes one system
    // call, prctl, which allocates nothing and takes no lock.
    #[expect(unsafe_code, reason = "nothing safe runs between fork and exec")]
    unsafe {
        command.pre_exec(
            || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            },
        )
    }
}

/// Elsewhere a test that is killed leaves its children behind.
#[cfg(not(target_os = "linux"))]
fn die_with_parent(command: &mut Command) -> &mut Command {
    command
}

/// A directory under the system's temporary one that goes when dropped, or else when a later run starts.
///
/// A shared plane lives in a static, and statics are never dropped: what a run leaves (etcd alone writes
/// 128 MB) the next sweeps. A lock that ends with its process tells what is still in use.
#[derive(Debug)]
pub(crate) struct RunDirectory {
    directory: tempfile::TempDir,
    _lock: File,
}

impl RunDirectory {
    const PREFIX: &str = "shipbell-kit-";

    pub(crate) fn create() -> Result<Self> {
        Self::sweep();
        let directory = tempfile::Builder::new().prefix(Self::PREFIX).tempdir()?;
        // Locked before it has the name that a sweep looks for.
        let (new, path) = (
            directory.path().join("lock.new"),
            directory.path().join("lock"),
        );
        let lock = File::create(&new)?;
        lock.lock()?;
        fs::rename(new, path)?;
        Ok(RunDirectory {
            directory,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    fn sweep() {
        let entries = fs::read_dir(std::env::temp_dir())
            .into_iter()
            .flatten()
            .flatten();
        for entry in entries.filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with(Self::PREFIX)
        }) {
            // Without a lock file it is just being created.
            let left =
                File::open(entry.path().join("lock")).is_ok_and(|lock| lock.try_lock().is_ok());
            if left {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}
