//! A subject as a process: what it costs, as the kernel counts it.

use anyhow::{Context as _, Result, bail, ensure};
use kit::{Operator, OperatorOptions};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The clock of CPU time in `/proc/PID/stat`, per second: fixed by Linux' interface.
const TICKS: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(300);

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// The operator, as it is shipped.
    Shipbell,
    /// The naive one.
    Stock,
}

/// A running subject.
pub struct Subject {
    operator: Operator,
    /// When it was started.
    pub started: Instant,
}

/// The operator's release binary: `SHIPBELL_BINARY`, or the one beside this program.
pub fn binary() -> Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("shipbell");
    let binary = std::env::var_os("SHIPBELL_BINARY").map_or(beside, PathBuf::from);
    ensure!(
        binary.is_file(),
        "no operator to measure: run `cargo build --release`, or set SHIPBELL_BINARY"
    );
    Ok(binary)
}

impl Subject {
    /// Starts a subject with further arguments.
    pub fn start(who: Who, kubeconfig: &Path, args: &[String], directory: &Path) -> Result<Self> {
        let (binary, first): (_, &[&str]) = match who {
            Who::Shipbell => (
                binary()?,
                &[
                    "run",
                    "--cluster-name=bench",
                    "--default-environment=false",
                    "--namespace=shipbell",
                    "--allow-destination=127.0.0.0/8",
                ],
            ),
            Who::Stock => (std::env::current_exe()?, &["stock"]),
        };
        let first = first.iter().map(|arg| (*arg).to_owned());
        let started = Instant::now();
        let operator = Operator::spawn(&OperatorOptions {
            binary,
            kubeconfig: kubeconfig.to_owned(),
            args: first.chain(args.iter().cloned()).collect(),
            env: vec![],
            log: directory.join(format!("{who:?}.log").to_lowercase()),
        })?;
        Ok(Self { operator, started })
    }

    /// Waits until it is ready; how long it took since its start.
    pub async fn ready(&mut self) -> Result<Duration> {
        while self.started.elapsed() < PATIENCE {
            if matches!(self.operator.get("/readyz").await, Ok((200, _))) {
                return Ok(self.started.elapsed());
            }
            self.operator.still_runs()?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("not ready; its log ends\n{}", self.log_tail())
    }

    /// Waits until it has read so many pod events.
    pub async fn read_events(&mut self, count: usize) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Ok((200, text)) = self.operator.get("/metrics").await {
                let line = text
                    .lines()
                    .find(|line| line.starts_with("shipbell_watch_events_total{kind=\"pods\"}"));
                let read: usize = line
                    .and_then(|line| line.rsplit(' ').next()?.parse().ok())
                    .unwrap_or(0);
                if read >= count {
                    return Ok(());
                }
            }
            self.operator.still_runs()?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("did not read its events; its log ends\n{}", self.log_tail())
    }

    /// CPU time so far.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.operator.id()))?;
        // After the name, which may hold blanks: state is field 3, utime 14, stime 15.
        let (_, rest) = stat.rsplit_once(") ").context("no process")?;
        let ticks = rest.split(' ').skip(11).take(2).map(str::parse::<u64>);
        let ticks: u64 = ticks.collect::<Result<Vec<_>, _>>()?.iter().sum();
        Ok(Duration::from_millis(ticks * 1_000 / TICKS))
    }

    /// Resident memory now and at most, in bytes.
    pub fn memory(&self) -> Result<(u64, u64)> {
        memory(&self.operator.id().to_string())
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let log = self.operator.log_text();
        log.chars()
            .skip(log.chars().count().saturating_sub(4_000))
            .collect()
    }
}

/// Resident memory of a process now and at most, in bytes.
pub fn memory(process: &str) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(number.context("no such field")?.parse::<u64>()? << 10)
    };
    Ok((field("VmRSS")?, field("VmHWM")?))
}
