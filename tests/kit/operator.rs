//! The operator as a process of its own, as it runs in a cluster: to be killed, paused, asked and read.

use crate::{http1, ports::Port, process::Process, wait::eventually};
use anyhow::{Context, Result, bail, ensure};
use std::{
    env, fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, ExitStatus},
    time::Duration,
};

/// How to start an [`Operator`].
#[derive(Clone, Debug, Default)]
pub struct OperatorOptions {
    /// The program; see [`binary`].
    pub binary: PathBuf,
    /// Who it is to the API server.
    pub kubeconfig: PathBuf,
    /// Its arguments; `--listen` is added.
    pub args: Vec<String>,
    /// Its environment, besides the test's.
    pub env: Vec<(String, String)>,
    /// Where its output goes. Operators that share a log append to it.
    pub log: PathBuf,
}

/// A running operator; dropping it kills it.
#[derive(Debug)]
pub struct Operator {
    process: Process,
    port: Port,
    log: PathBuf,
}

/// The operator's program: `SHIPBELL_BINARY`, or else the one cargo built beside the test.
pub fn binary() -> Result<PathBuf> {
    if let Some(binary) = env::var_os("SHIPBELL_BINARY").map(PathBuf::from) {
        ensure!(
            binary.is_file(),
            "SHIPBELL_BINARY: no file {}",
            binary.display()
        );
        return Ok(binary);
    }
    // target/debug/deps/<test> and target/debug/<program> → target/debug/shipbell
    let this = env::current_exe()?;
    let folder = this.parent().unwrap_or(&this);
    let folder = match folder.parent() {
        Some(above) if folder.ends_with("deps") => above,
        _ => folder,
    };
    let beside = folder.join("shipbell");
    if !beside.is_file() {
        bail!(
            "no operator to test: run `cargo build` first ({} is missing), or set SHIPBELL_BINARY",
            beside.display()
        );
    }
    Ok(beside)
}

impl Operator {
    /// Starts the operator. It listens on a port of its own, see [`Operator::address`].
    pub fn spawn(options: &OperatorOptions) -> Result<Self> {
        Self::start(options, Command::new(&options.binary))
    }

    /// Like [`Operator::spawn`], with at most so many bytes of data in memory: whoever asks for more gets none, and a
    /// program in Rust ends then.
    pub fn spawn_within(options: &OperatorOptions, bytes: u64) -> Result<Self> {
        // The shell becomes the operator. No rights are needed to lower a limit.
        let mut command = Command::new("sh");
        let kibibytes = (bytes >> 10).to_string();
        command
            .args([
                "-c",
                "ulimit -d \"$1\" && shift && exec \"$@\"",
                "sh",
                &kibibytes,
            ])
            .arg(&options.binary);
        Self::start(options, command)
    }

    fn start(options: &OperatorOptions, mut command: Command) -> Result<Self> {
        let port = Port::reserve()?;
        command
            .args(&options.args)
            .arg(format!("--listen={}", port.address()));
        // The tester's own settings, cluster and proxies are none of its business.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("SHIPBELL_")
                || text.starts_with("KUBERNETES_")
                || text.to_lowercase().ends_with("_proxy")
            {
                command.env_remove(&name);
            }
        }
        command
            .env("KUBECONFIG", &options.kubeconfig)
            // The next one is like a container that is started again in the same pod: it waits for no Lease.
            .env("SHIPBELL_POD_UID", "the-pod-of-all")
            .envs(options.env.iter().cloned());
        let process = Process::spawn("the operator", command, &options.log)?;
        Ok(Operator {
            process,
            port,
            log: options.log.clone(),
        })
    }

    /// Where it serves health and metrics.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Asks its server: status and body.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        http1::request(self.address(), "GET", path, "").await
    }

    /// Waits until `/readyz` answers 200; fails at once when it ends before.
    pub async fn wait_ready(&mut self, timeout: Duration) -> Result<()> {
        let address = self.address();
        let process = &mut self.process;
        let ended = eventually(timeout, "the operator to be ready", async || {
            if let Err(ended) = process.still_runs() {
                return Ok(Some(Err(ended)));
            }
            let (status, body) = http1::request(address, "GET", "/readyz", "").await?;
            ensure!(status == 200, "/readyz answers {status}: {body}");
            Ok(Some(Ok(())))
        });
        let ended = ended.await;
        ended.with_context(|| format!("its log ends\n{}", self.process.log_tail()))?
    }

    /// Whether it still runs; an error shows the end of its log.
    pub fn still_runs(&mut self) -> Result<()> {
        self.process.still_runs()
    }

    /// SIGKILL: it gets no chance to say goodbye.
    pub fn kill_9(mut self) {
        self.process.kill();
    }

    /// SIGTERM, and waits for its end.
    pub async fn terminate(mut self, timeout: Duration) -> Result<ExitStatus> {
        self.process.signal("TERM")?;
        self.ended(timeout).await
    }

    /// SIGTERM alone.
    pub fn ask_to_stop(&mut self) -> Result<()> {
        self.process.signal("TERM")
    }

    /// Waits for its end.
    pub async fn ended(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let process = &mut self.process;
        let ended = eventually(timeout, "the operator to end", async || process.exited()).await;
        ended.with_context(|| format!("its log ends\n{}", self.process.log_tail()))
    }

    /// SIGSTOP: it stands still, and its connections with it.
    pub fn pause(&mut self) -> Result<()> {
        self.process.signal("STOP")
    }

    /// SIGCONT.
    pub fn resume(&mut self) -> Result<()> {
        self.process.signal("CONT")
    }

    /// The processor time it has used so far.
    pub fn processor_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id()))?;
        // The name in brackets may hold anything; the 12th and 13th fields after it are ticks of 10 ms.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 10))
    }

    /// The most memory that it has had at any time, with the program itself.
    pub fn peak_memory(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    /// The memory that it has now, but for the program itself and what it only reads.
    pub fn data_memory(&self) -> Result<u64> {
        self.memory("VmData:")
    }

    /// A line of the process's status that tells an amount of memory.
    fn memory(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kibibytes = kibibytes.with_context(|| format!("no {name}"))?;
        Ok(kibibytes.trim().parse::<u64>()? << 10)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// All it has logged.
    pub fn log_text(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }
}
