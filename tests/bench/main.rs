//! `make bench`: the operator beside a naive one, in one run, against the budgets. Prints a table in Markdown; absolute
//! figures are this machine's, ratios are what counts. A missed budget is no error.
//!
//! `bench [--pods 5000,50000] [--shipbell-pods 150000] [--events 45000] [--changes 40] [--only ingest,latency,settings,deliveries,vetting,namespaces] [--runs 20]`
//!
//! `--only takeover` takes ten minutes, and is not among what is measured without it.

mod deliveries;
mod ingest;
mod namespaces;
mod plane;
mod receiver;
mod stock;
mod subject;
mod takeover;
mod vetting;

use anyhow::{Context as _, Result, bail};
use futures::future::try_join_all;
use ingest::Ingest;
use kit::stub::{Contents, Stub};
use std::{fmt::Write as _, path::Path, time::Duration};
use subject::Who;
use takeover::Way;

fn main() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "stock") {
        let value = |name: &str| args.iter().find_map(|arg| arg.strip_prefix(name));
        let listen = value("--listen=").context("--listen")?.parse()?;
        let ca = value("--ca=").map(Into::into);
        return stock::run(listen, value("--post=").map(str::to_owned), ca);
    }
    let plan = Plan::parse(&args)?;
    let directory = tempfile::Builder::new()
        .prefix("shipbell-bench-")
        .tempdir()?;
    let table = run(&plan, directory.path());
    if table.is_err() {
        // For whoever looks into it.
        eprintln!("logs are in {}", directory.keep().display());
    }
    println!("{}", table?);
    Ok(())
}

struct Plan {
    pods: Vec<usize>,
    shipbell_pods: Vec<usize>,
    events: usize,
    changes: usize,
    runs: usize,
    parts: Vec<String>,
}

impl Plan {
    fn parse(args: &[String]) -> Result<Self> {
        let mut plan = Self {
            pods: vec![5_000, 50_000],
            shipbell_pods: vec![150_000],
            events: 45_000,
            changes: 40,
            runs: 20,
            parts: [
                "ingest",
                "latency",
                "settings",
                "deliveries",
                "vetting",
                "namespaces",
            ]
            .map(str::to_owned)
            .into(),
        };
        for pair in args.chunks(2) {
            let [name, value] = pair else {
                bail!("{} needs a value", pair[0])
            };
            let numbers = || {
                let numbers = value.split(',').filter(|number| !number.is_empty());
                numbers.map(str::parse).collect::<Result<Vec<_>, _>>()
            };
            match name.as_str() {
                "--pods" => plan.pods = numbers()?,
                "--shipbell-pods" => plan.shipbell_pods = numbers()?,
                "--events" => plan.events = value.parse()?,
                "--changes" => plan.changes = value.parse()?,
                "--runs" => plan.runs = value.parse()?,
                "--only" => plan.parts = value.split(',').map(str::to_owned).collect(),
                _ => bail!("unknown: {name}"),
            }
        }
        Ok(plan)
    }

    fn does(&self, part: &str) -> bool {
        self.parts.iter().any(|wanted| wanted == part)
    }
}

fn run(plan: &Plan, directory: &Path) -> Result<String> {
    let mut table = Table::default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    if plan.does("ingest") {
        runtime.block_on(ingest(plan, &mut table, directory))?;
    }
    if plan.does("latency") {
        runtime.block_on(latency(plan, &mut table, directory))?;
    }
    if plan.does("settings") {
        runtime.block_on(settings(&mut table, directory))?;
    }
    if plan.does("deliveries") {
        deliveries(&mut table)?;
    }
    if plan.does("vetting") {
        let vetting = vetting::measure()?;
        eprintln!("{vetting:?}");
        let all = micros(vetting.all);
        let ratio = |one: Duration| Some(vetting.all.as_secs_f64() / one.as_secs_f64());
        let what = "a record edited: to what it changes";
        table.row(
            what,
            micros(vetting.record),
            all.clone(),
            ratio(vetting.record),
            "",
        );
        let what = "an environment's rules edited: to what that changes";
        table.row(what, micros(vetting.rules), all, ratio(vetting.rules), "");
        table.row(
            "memory a record",
            format!("{} bytes", vetting.memory),
            String::new(),
            None,
            "",
        );
        table.note("Edits among 10,000 records, 1,000 artifacts, 100 environments with rules; there, “stock” is Shipbell itself judging everything again.".to_owned());
    }
    if plan.does("namespaces") {
        let namespaces = namespaces::measure()?;
        eprintln!("{namespaces:?}");
        let all = micros(namespaces.all);
        let ratio = |one: Duration| Some(namespaces.all.as_secs_f64() / one.as_secs_f64());
        for (what, one, limit) in [
            (
                "a namespace relabelled: to the counts of its environments",
                namespaces.relabelled,
                "50 ms",
            ),
            (
                "the self-check of one environment",
                namespaces.checked,
                "50 ms",
            ),
        ] {
            table.row(what, micros(one), all.clone(), ratio(one), limit);
        }
        let peak = mebibytes(namespaces.peak);
        table.row("most RSS ever in these two", peak, String::new(), None, "");
        table.note("Namespaces: 200 environments that choose them by label, 1,000 namespaces, 150,000 pods; there, “stock” is Shipbell itself counting all environments.".to_owned());
    }
    if plan.does("takeover") {
        runtime.block_on(take_overs(plan.runs, &mut table))?;
    }
    let binary = std::fs::metadata(subject::binary()?)?.len();
    table.row("binary", megabytes(binary), String::new(), None, "20 MB");
    Ok(table.text())
}

async fn take_overs(runs: usize, table: &mut Table) -> Result<()> {
    // They wait most of the time.
    let all = Way::ALL.map(|way| takeover::measure(way, runs));
    for (way, found) in Way::ALL.iter().zip(try_join_all(all).await?) {
        eprintln!("{way:?}: {found:?}");
        let (what, limit) = match way {
            Way::Terminated => ("the leader is told to stop (SIGTERM)", "2 s"),
            Way::Killed => ("it is killed (SIGKILL)", "20 s"),
            Way::StoodStill => ("it stands still past its Lease (SIGSTOP)", "20 s"),
            Way::CutOff => ("it loses the API server", "20 s"),
        };
        let longest = found.silences.last().context("no run")?;
        let median = found.silences[found.silences.len() / 2];
        let figures = format!(
            "{:.1} / {:.1} s, {} events twice",
            median.as_secs_f64(),
            longest.as_secs_f64(),
            found.twice
        );
        let what = format!(
            "{what}: from its last delivery to the first of the next leader, p50 / longest of {runs}"
        );
        table.row(&what, figures, String::new(), None, limit);
    }
    Ok(())
}

async fn ingest(plan: &Plan, table: &mut Table, directory: &Path) -> Result<()> {
    for (round, pods) in plan
        .pods
        .iter()
        .chain(&plan.shipbell_pods)
        .copied()
        .enumerate()
    {
        let both = round < plan.pods.len();
        let (none, one) = (
            Contents {
                pods,
                ..Contents::default()
            },
            Contents {
                pods,
                environments: 1,
                ..Contents::default()
            },
        );
        let ours = ingest::measure(Who::Shipbell, one, plan.events, directory).await?;
        eprintln!("shipbell, {pods} pods: {ours:?}");
        let theirs = match both {
            true => Some(ingest::measure(Who::Stock, none, plan.events, directory).await?),
            false => None,
        };
        eprintln!("stock, {pods} pods: {theirs:?}");
        of_cluster(table, pods, &ours, theirs.as_ref());
        if round == 0 {
            // Environments side by side, each with its part of the namespaces.
            let many = Contents {
                environments: 100,
                ..none
            };
            let many = ingest::measure(Who::Shipbell, many, plan.events, directory).await?;
            let what = format!("CPU an event, {} pods, 100 environments", thousands(pods));
            let ratio = theirs.map(|theirs| theirs.event.as_secs_f64() / many.event.as_secs_f64());
            let stock = theirs.map_or_else(String::new, |theirs| micros(theirs.event));
            table.row(&what, micros(many.event), stock, ratio, "");
        }
        if !both {
            for (name, contents) in [
                ("200 of them of 700 KB", Contents { large: 200, ..one }),
                (
                    "200 environments that choose namespaces by label",
                    Contents {
                        environments: 200,
                        ..none
                    },
                ),
            ] {
                let found = ingest::measure(Who::Shipbell, contents, 0, directory).await?;
                eprintln!("{name}: {found:?}");
                of_large_cluster(table, &format!("{} pods, {name}", thousands(pods)), &found);
            }
        }
    }
    let stub = Stub::start(
        Contents {
            pods: 2_000,
            ..Contents::default()
        },
        directory,
    )?;
    let (size, managed) = stub.sizes();
    table.note(format!(
        "Pods of {:.1} KB JSON ({:.0} % managedFields), ten a workload, 80 % of Deployments; events are those of pods that are replaced, nine each; JSON over TLS from a stub API server.",
        kilo(size),
        managed * 100.0
    ));
    Ok(())
}

fn of_large_cluster(table: &mut Table, name: &str, found: &Ingest) {
    let baseline = found.baseline.map_or_else(String::new, seconds);
    for (what, value) in [
        ("start to ready", seconds(found.ready)),
        ("start to the last first snapshot", baseline),
        ("most RSS ever", mebibytes(found.peak)),
    ] {
        table.row(&format!("{what}, {name}"), value, String::new(), None, "");
    }
}

fn of_cluster(table: &mut Table, pods: usize, ours: &Ingest, theirs: Option<&Ingest>) {
    let size = thousands(pods);
    let budget = |limits: &[(usize, &'static str)]| {
        let limit = limits.iter().find(|(at, _)| *at == pods);
        limit.map_or("", |(_, budget)| *budget)
    };
    let mut row =
        |what: &str, of: &dyn Fn(&Ingest) -> f64, show: &dyn Fn(&Ingest) -> String, limit| {
            let ratio = theirs.map(|theirs| of(theirs) / of(ours));
            let stock = theirs.map_or_else(String::new, show);
            table.row(
                &format!("{what}, {size} pods"),
                show(ours),
                stock,
                ratio,
                limit,
            );
        };
    let bytes = |bytes: u64| float(bytes);
    row(
        "RSS",
        &|i| bytes(i.idle),
        &|i| mebibytes(i.idle),
        budget(&[(5_000, "25 MiB"), (150_000, "64 MiB")]),
    );
    row(
        "RSS after the events",
        &|i| bytes(i.after),
        &|i| mebibytes(i.after),
        "",
    );
    row(
        "most RSS ever",
        &|i| bytes(i.peak),
        &|i| mebibytes(i.peak),
        "",
    );
    row(
        "start to ready",
        &|i| i.ready.as_secs_f64(),
        &|i| seconds(i.ready),
        budget(&[(5_000, "1 s")]),
    );
    row(
        "CPU to sync",
        &|i| i.sync_cpu.as_secs_f64(),
        &|i| seconds(i.sync_cpu),
        "",
    );
    row(
        "CPU an event",
        &|i| i.event.as_secs_f64(),
        &|i| micros(i.event),
        "25 µs",
    );
    row(
        "events a second",
        &|i| 1.0 / i.rate,
        &|i| format!("{:.1}k", i.rate / 1e3),
        "",
    );
    if let Some(baseline) = ours.baseline {
        let what = format!("start to first snapshot, {size} pods");
        table.row(&what, seconds(baseline), String::new(), None, "");
    }
}

#[allow(clippy::type_complexity)] // a table
async fn latency(plan: &Plan, table: &mut Table, directory: &Path) -> Result<()> {
    let stage = plane::Stage::start(directory).await?;
    let latencies = stage.latencies(plan.changes, directory).await?;
    eprintln!("{latencies:?}");
    let early = [&latencies.shipbell, &latencies.stock]
        .map(|of| of.iter().filter(|lag| lag.1 < 0.0).count());
    let sorted = |of: &[plane::Lag], from: fn(&plane::Lag) -> f64| {
        let mut of: Vec<_> = of.iter().map(from).collect();
        of.sort_unstable_by(f64::total_cmp);
        of
    };
    let ways: [(&str, fn(&plane::Lag) -> f64, &str, &str); 2] = [
        (
            "acknowledgement",
            |lag| lag.1,
            "15 ms + watch",
            "50 ms + watch",
        ),
        ("write", |lag| lag.0, "", ""),
    ];
    for (since, from, p50, p99) in ways {
        let ours = sorted(&latencies.shipbell, from);
        let theirs = sorted(&latencies.stock, from);
        let watch = sorted(&latencies.watch, from);
        for (name, part, budget) in [("p50", 50, p50), ("p99", 99, p99)] {
            let at = |of: &[f64]| {
                let position = (of.len() * part).div_ceil(100).saturating_sub(1);
                of.get(position).copied().unwrap_or_default()
            };
            let (ours, theirs) = (at(&ours), at(&theirs));
            // A ratio of times of which one may be negative says nothing.
            let ratio = (since == "write").then_some(theirs / ours);
            let millis = |time: f64| format!("{time:.1} ms");
            table.row(
                &format!("{since} to POST, {name}"),
                millis(ours),
                millis(theirs),
                ratio,
                budget,
            );
            let what = format!("{since} to a watch that does nothing, {name}");
            table.row(&what, millis(at(&watch)), String::new(), None, "");
        }
    }
    // More than the window of unacknowledged events holds, so that statuses have to be written on the way.
    let fan = stage.fan(200, 80, directory).await?;
    eprintln!("{fan:?}");
    let what = format!(
        "deliveries/s of one snapshot's {} events to {} settings, statuses written",
        fan.events, fan.settings
    );
    table.row(&what, format!("{:.0}", fan.rate), String::new(), None, "");
    table.row(
        "CPU of each, all included",
        micros(fan.cpu),
        String::new(),
        None,
        "",
    );
    let rank = if plan.changes < 100 {
        " (p99 of so few is the maximum)"
    } else {
        ""
    };
    table.note(format!(
        "Latency of {} changes{rank}, a pod's new status to the receiver's TLS request, settle times 0s, on a real control plane; Shipbell writes a snapshot first, stock writes nothing. Requests that came before the writer had read its acknowledgement, counted as negative: {} of Shipbell, {} of stock.",
        plan.changes, early[0], early[1]
    ));
    Ok(())
}

async fn settings(table: &mut Table, directory: &Path) -> Result<()> {
    let stage = plane::Stage::start(directory).await?;
    let burst = stage.burst(1_000, 10, directory).await?;
    eprintln!("{burst:?}");
    let mut row = |what: &str, ours, budget| {
        let what = format!("1,000 settings, 10 changes, one receiver: {what}");
        table.row(&what, ours, String::new(), None, budget);
    };
    row("last change to last delivery", seconds(burst.took), "15 s");
    row("most RSS ever", mebibytes(burst.peak), "48 MiB");
    row(
        "status writes a setting",
        format!("{:.2}", burst.writes),
        "2",
    );
    Ok(())
}

fn deliveries(table: &mut Table) -> Result<()> {
    let receiver = receiver::Receiver::start(deliveries::HOSTS, false)?;
    let theirs = deliveries::stock(&receiver, 2_000, 16)?;
    eprintln!("{theirs:?}");
    for at_once in [16, 64] {
        let ours = deliveries::operator(&receiver, 40_000, at_once)?;
        eprintln!("{ours:?}");
        let what = format!("deliveries/s on one core, {at_once} at once");
        let k = |rate: f64| format!("{:.1}k", rate / 1e3);
        table.row(
            &what,
            k(ours.rate),
            k(theirs.rate),
            Some(ours.rate / theirs.rate),
            "20k",
        );
        let ratio = theirs.cpu.as_secs_f64() / ours.cpu.as_secs_f64();
        table.row(
            &format!("CPU of each, {at_once} at once"),
            micros(ours.cpu),
            micros(theirs.cpu),
            Some(ratio),
            "50 µs",
        );
    }
    table.note(format!(
        "Deliveries: 1,660 bytes over TLS to {} hosts, the receiver on the other core.",
        deliveries::HOSTS
    ));
    Ok(())
}

/// The table, as Markdown.
#[derive(Default)]
struct Table {
    rows: Vec<[String; 5]>,
    notes: Vec<String>,
}

impl Table {
    fn row(&mut self, what: &str, ours: String, stock: String, ratio: Option<f64>, budget: &str) {
        let ratio = ratio.map_or_else(String::new, |ratio| match ratio {
            10.0.. => format!("{ratio:.0}x"),
            _ => format!("{ratio:.1}x"),
        });
        let budget = budget.to_owned();
        self.rows
            .push([what.to_owned(), ours, stock, ratio, budget]);
    }

    fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    fn text(&self) -> String {
        let head = ["what", "Shipbell", "stock", "ratio", "budget"].map(str::to_owned);
        let rule = ["---", "--:", "--:", "--:", "--:"].map(str::to_owned);
        let lines = [head, rule];
        let lines = lines.iter().chain(&self.rows);
        let mut text = String::new();
        for row in lines {
            // Writing to a string does not fail.
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        text.push_str("\nratio: how many times better Shipbell is.\n");
        text.push_str(&conditions());
        for note in &self.notes {
            text.push_str(note);
            text.push('\n');
        }
        text
    }
}

/// The machine, as far as it matters.
fn conditions() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown CPU", |(_, model)| model);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<_> = load.split(' ').take(3).collect();
    format!("{cores} cores of {model}, load {}.\n", load.join(" "))
}

#[allow(clippy::cast_precision_loss)]
fn float(number: u64) -> f64 {
    number as f64
}

fn kilo(bytes: usize) -> f64 {
    float(bytes as u64) / 1e3
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", float(bytes) / float(1 << 20))
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", float(bytes) / 1e6)
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn micros(time: Duration) -> String {
    format!("{:.1} µs", time.as_secs_f64() * 1e6)
}

fn thousands(count: usize) -> String {
    match count {
        0..10_000 if !count.is_multiple_of(1_000) => count.to_string(),
        _ => format!("{}k", count / 1_000),
    }
}
