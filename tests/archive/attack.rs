//! Clients that mean harm, against an operator that has no more memory than the chart gives it.

use crate::{reader, token_of_reader};
use anyhow::{Context as _, Result, ensure};
use futures::{
    StreamExt as _, TryStreamExt as _,
    future::{join_all, ready},
    stream,
};
use kit::{
    Actor, Cluster, Receiver,
    cluster::PATIENCE,
    deployment, eventually, hears,
    http1::{connect_from, get, get_from},
    ports::Port,
    stage::{ALL, Cast, alone, operator},
};
use kube::{Api, api::PostParams};
use shipbell::api::{EnvironmentSnapshot, EnvironmentSnapshotSpec};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
    time::{Instant, timeout},
};

/// The memory limit of the chart.
pub const LIMIT: u64 = 160 << 20;
/// How many snapshots the log has, and how many changes each of them.
const LOG: (i64, usize) = (600, 40);
/// How many settings with a hostile receiver each of four namespaces has: 480 requests of the 512 that are made at once.
const OF_HOSTILE: usize = 120;
/// For how long clients ask for answers that they do not read.
const UNREAD: Duration = Duration::from_secs(10);
/// How long an answer to the kubelet may take before it counts as none.
const PROBE: Duration = Duration::from_secs(5);

#[test]
fn under_attack_the_operator_answers_the_kubelet_and_readers_within_the_chart_s_memory() {
    alone(async |cluster| {
        let actor = cluster_with_a_long_log(cluster).await?;
        let port = Port::reserve()?;
        let api = port.address();
        let cast = Cast {
            name: "operator-attacked".to_owned(),
            args: vec![
                format!("--external-url=http://{api}"),
                format!("--api-listen={api}"),
            ],
            memory: Some(LIMIT),
            ..Cast::default()
        };
        let mut operator = operator(cluster, &cast).await?;
        let health = operator.address();
        let token = reader(cluster).await?;
        let newest = format!("/api/v2/snapshots/acme/{}/-1", actor.name);
        eventually(PATIENCE, "the log to be read", async || {
            let (status, body) = get(api, &newest, Some(&token)).await?;
            ensure!(status == 200, "{status} {body}");
            Ok(())
        })
        .await?;

        let honest = Honest {
            api,
            health,
            path: &newest,
            token: &token,
        };
        for (what, of_port) in [("health", health), ("api", api)] {
            let attackers = heads_without_end(of_port).await?;
            let attack = async { Ok(attackers.closed().await) };
            let (closed, reads) = honest.reads_during(what, attack).await?;
            ensure!(reads.busy == 0, "{what}: {reads:?}");
            ensure!(
                closed == attackers_count(),
                "{what}: only {closed} were disconnected"
            );
        }
        operator.still_runs()?;

        // A page of a hundred events is the largest answer of this log.
        let page = format!(
            "/api/v2/environments/acme/{}/events?per_page=100",
            actor.name
        );
        let unread = async {
            let unread = answers_that_nobody_reads(api, &page, &token);
            timeout(UNREAD, unread).await.unwrap_or(Ok(()))
        };
        let ((), reads) = honest.reads_during("unread answers", unread).await?;
        // Thirty clients at three addresses want the sixteen places.
        ensure!(reads.right >= reads.busy, "{reads:?}");

        let readers = readers_of_everything(api, &actor.name, &token);
        let attack = honest.reads_during("readers of everything", readers);
        let (others, reads) = attack.await?;
        // Twenty readers wait for eight places, for five seconds each. On a quiet machine nobody waits for longer; on one
        // with much other work some do. With half of the answers, who obeys `Retry-After` needs two requests for one.
        for reads in [others, reads] {
            ensure!(reads.right >= reads.busy, "{reads:?}");
        }

        // As many as the tokens of one address that are asked about in a second, at each of two addresses.
        let mut new_readers = vec![];
        for last in [2, 3] {
            for _ in 0..4 {
                let from = Ipv4Addr::new(127, 0, 0, last);
                new_readers.push((from, token_of_reader(cluster).await?));
            }
        }
        let made_up = async {
            let attack = tokens_that_are_made_up(api, &newest);
            let new_readers = async {
                for (from, token) in &new_readers {
                    let (status, body) = get_from(*from, api, &newest, Some(token)).await?;
                    ensure!(status == 200, "a new reader at {from}: {status} {body}");
                }
                Ok(())
            };
            let (answers, ()) = tokio::try_join!(attack, new_readers)?;
            Ok(answers)
        };
        let (answers, reads) = honest.reads_during("made-up tokens", made_up).await?;
        println!("made-up tokens: {answers:?}");
        ensure!(reads.busy == 0, "{reads:?}");
        ensure!(
            answers.keys().all(|status| [401, 503].contains(status)),
            "{answers:?}"
        );

        let (status, metrics) = operator.get("/metrics").await?;
        ensure!(
            status == 200 && metrics.contains("shipbell_panics_total{scope=\"request\"} 0\n"),
            "{metrics}"
        );
        let peak = operator.peak_memory()?;
        println!("peak: {} MiB", peak >> 20);
        ensure!(peak < LIMIT, "{} MiB", peak >> 20);
        operator.terminate(PATIENCE).await?;
        Ok(())
    });
}

#[test]
fn receivers_that_send_heads_without_end_cost_no_more_than_the_chart_s_memory_and_hold_up_nobody() {
    alone(async |cluster| {
        let cast = Cast {
            name: "operator-of-hostile-receivers".to_owned(),
            memory: Some(LIMIT),
            ..Cast::default()
        };
        let mut operator = operator(cluster, &cast).await?;
        // Heads that are refused and that are just not; and certificates that take most memory.
        let heads = [400_000, 15_000].map(|length| (false, head(length)));
        let handshakes = [(); 2].map(|()| (true, handshake()));
        let kinds = heads
            .into_iter()
            .chain(handshakes)
            .map(HostileReceiver::start);
        let kinds = join_all(kinds)
            .await
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let mut hostile = vec![];
        for (number, receiver) in kinds.iter().enumerate() {
            let actor = Actor::new(cluster, &format!("hostile-{number}")).await?;
            let settings = stream::iter(0..OF_HOSTILE).map(Ok::<_, anyhow::Error>);
            let create = async |setting: usize| {
                let (name, at) = (format!("hostile-{setting}"), receiver.at);
                let scheme = if receiver.is_tls { "https" } else { "http" };
                let url = format!("webhook: {{url: '{scheme}://{at}/{setting}'}}\n{ALL}");
                actor.setting(&name, &url).await?;
                actor.handled(&name).await
            };
            settings.try_for_each_concurrent(16, create).await?;
            hostile.push(actor);
        }
        let victim = Actor::new(cluster, "victim").await?;
        let good = Receiver::start();
        victim.webhook("good", &good, ALL).await?;

        for actor in &hostile {
            actor
                .apply(deployment(&actor.name, "web", "r.example/web:v1", 1))
                .await?;
        }
        eventually(PATIENCE, "all hostile receivers to be asked", async || {
            ensure!(lives(operator.address()).await?, "/livez");
            let asked = kinds.iter().map(|kind| kind.asked.load(SeqCst));
            ensure!(
                asked.clone().all(|asked| asked >= OF_HOSTILE),
                "{:?}",
                asked.collect::<Vec<_>>()
            );
            Ok(())
        })
        .await?;
        victim
            .apply(deployment(&victim.name, "web", "r.example/victim:v1", 1))
            .await?;
        hears(&good, &["STARTED victim:v1 0 to 1"]).await?;
        ensure!(lives(operator.address()).await?, "/livez");
        hostile[0]
            .condition("hostile-0", "Delivered", "False UnexpectedAnswer")
            .await?;
        operator.still_runs()?;
        let peak = operator.peak_memory()?;
        println!("peak with hostile receivers: {} MiB", peak >> 20);
        ensure!(peak < LIMIT, "{} MiB", peak >> 20);
        operator.terminate(PATIENCE).await?;
        Ok(())
    });
}

/// The beginning of an answer: a head of this length without an end.
fn head(length: usize) -> Vec<u8> {
    let mut head = b"HTTP/1.1 200 OK\r\nx: ".to_vec();
    head.resize(length, b'x');
    head
}

/// The beginning of a TLS 1.2 handshake (RFC 5246, 7.4): as many certificates of one byte as are read.
fn handshake() -> Vec<u8> {
    let message = |kind: u8, body: &[u8]| {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[kind], &length[1..], body].concat()
    };
    let record = |message: &[u8]| {
        let length = u16::try_from(message.len()).unwrap().to_be_bytes();
        [&[22, 3, 3], &length[..], message].concat()
    };
    // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, without a session and without compression.
    let hello = [&[3, 3][..], &[7; 32], &[0, 0xC0, 0x2B, 0]].concat();
    let certificates = [0, 0, 1, 0].repeat(4_000);
    let length = u32::try_from(certificates.len()).unwrap().to_be_bytes();
    let chain = [&length[1..], &certificates].concat();
    [record(&message(2, &hello)), record(&message(11, &chain))].concat()
}

/// Answers each request with the beginning of something and then stands still.
struct HostileReceiver {
    at: SocketAddr,
    is_tls: bool,
    /// How many requests it has got and answered as far as was taken of it.
    asked: Arc<AtomicUsize>,
}

impl HostileReceiver {
    async fn start((is_tls, beginning): (bool, Vec<u8>)) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (at, asked) = (listener.local_addr()?, Arc::<AtomicUsize>::default());
        let counted = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (counted, beginning) = (Arc::clone(&counted), beginning.clone());
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.write_all(&beginning).await;
                    counted.fetch_add(1, SeqCst);
                    // Until the other side has enough.
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                });
            }
        });
        Ok(Self { at, is_tls, asked })
    }
}

/// A log of many large snapshots, of which an operator recorded the first ones.
async fn cluster_with_a_long_log(cluster: &'static Cluster) -> Result<Actor> {
    let first = operator(cluster, &Cast::default()).await?;
    let actor = Actor::new(cluster, "attacked").await?;
    actor
        .apply(deployment(&actor.name, "web", "r.example/web:v1", 1))
        .await?;
    let log = actor.recorded(2).await?;
    first.terminate(PATIENCE).await?;
    let api: Api<EnvironmentSnapshot> = Api::all(cluster.client());
    let name = |index: i64| format!("{}-{index:010}", actor.name);
    let template = api.get(&name(2)).await?;
    let numbers = stream::iter(3..=LOG.0).map(Ok::<_, anyhow::Error>);
    let create = async |index: i64| {
        let mut copy = template.clone();
        let events = enlarge(&mut copy.spec, &log[1], index);
        copy.metadata.name = Some(name(index));
        copy.metadata.uid = None;
        copy.metadata.resource_version = None;
        copy.metadata.managed_fields = None;
        let annotations = copy.metadata.annotations.get_or_insert_default();
        annotations.insert("shipbell.dev/events".to_owned(), events.to_string());
        api.create(&PostParams::default(), &copy).await?;
        Ok(())
    };
    numbers.try_for_each_concurrent(16, create).await?;
    Ok(actor)
}

/// Makes a snapshot a later and larger one. How many events it has.
fn enlarge(
    spec: &mut EnvironmentSnapshotSpec,
    like: &EnvironmentSnapshotSpec,
    index: i64,
) -> usize {
    spec.index = index;
    spec.content_hash = format!("{index:064x}");
    spec.changes = vec![like.changes[0].clone(); LOG.1];
    for (number, change) in spec.changes.iter_mut().enumerate() {
        change.fingerprint = format!("{number:032x}{index:032x}");
    }
    let mut event = like.events[0].clone();
    spec.events = (0..LOG.1)
        .map(|number| {
            event.change = i64::try_from(number).ok();
            event.clone()
        })
        .collect();
    spec.events.len()
}

/// Connections that send a head without an end.
pub struct Attackers(JoinSet<()>);

impl Attackers {
    /// How many were disconnected in time.
    pub async fn closed(mut self) -> usize {
        let mut closed = 0;
        let all = async {
            while self.0.join_next().await.is_some() {
                closed += 1;
            }
        };
        let _ = timeout(PATIENCE, all).await;
        closed
    }
}

const fn attackers_count() -> usize {
    300
}

/// Opens connections from several addresses. Two of three send 400 KB of a head, the others one byte after the other.
pub async fn heads_without_end(to: SocketAddr) -> Result<Attackers> {
    let mut tasks = JoinSet::new();
    for number in 0..attackers_count() {
        let address = Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(number % 10)?);
        let mut stream = connect_from(address, to).await?;
        tasks.spawn(async move {
            let part = match number % 3 {
                0 => vec![b'a'],
                _ => vec![b'a'; 4_000],
            };
            let begin = b"GET /livez HTTP/1.1\r\nX-Head: ";
            let mut sent = stream.write_all(begin).await;
            let mut pause = tokio::time::interval(Duration::from_millis(50));
            while sent.is_ok() {
                pause.tick().await;
                sent = stream.write_all(&part).await;
            }
        });
    }
    Ok(Attackers(tasks))
}

/// How many requests were answered with what they ask for, and how many were told to come back. Others are errors.
#[derive(Debug, Default)]
pub struct Answers {
    pub right: usize,
    pub busy: usize,
}

impl Answers {
    fn count(&mut self, status: u16, want: u16) -> Result<()> {
        match status {
            _ if status == want => self.right += 1,
            503 => self.busy += 1,
            _ => anyhow::bail!("{status} instead of {want}"),
        }
        Ok(())
    }
}

/// Someone who reads what a user reads, and the kubelet.
#[derive(Clone, Copy)]
pub struct Honest<'a> {
    pub api: SocketAddr,
    pub health: SocketAddr,
    pub path: &'a str,
    pub token: &'a str,
}

impl Honest<'_> {
    /// Reads the newest snapshot again and again until an attack ends, while the kubelet asks whether the operator lives.
    pub async fn reads_during<T>(
        self,
        what: &str,
        attack: impl Future<Output = Result<T>>,
    ) -> Result<(T, Answers)> {
        let mut answers = Answers::default();
        let mut slowest = Duration::ZERO;
        let reads = async {
            let mut every = tokio::time::interval(Duration::from_millis(100));
            loop {
                every.tick().await;
                let began = Instant::now();
                let answer = get(self.api, self.path, Some(self.token)).await;
                if let Err(error) = answer.and_then(|(status, _)| answers.count(status, 200)) {
                    break error.context("a reader");
                }
                slowest = slowest.max(began.elapsed());
            }
        };
        let probes = async {
            let mut every = tokio::time::interval(Duration::from_millis(500));
            loop {
                every.tick().await;
                match lives(self.health).await {
                    Ok(true) => {}
                    Ok(false) => break anyhow::anyhow!("/livez fails"),
                    Err(error) => break error,
                }
            }
        };
        let ended = tokio::select! {
            ended = attack => ended,
            error = reads => Err(error),
            error = probes => Err(error),
        };
        let ended = ended.with_context(|| format!("during the attack: {what}"))?;
        println!("{what}: a reader got {answers:?}, after {slowest:?} at most");
        ensure!(answers.right > 0, "{what}: {answers:?}");
        Ok((ended, answers))
    }
}

/// Clients at three addresses that ask for an answer, over and over, and read nothing of it.
pub async fn answers_that_nobody_reads(api: SocketAddr, path: &str, token: &str) -> Result<()> {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {api}\r\nAuthorization: Bearer {token}\r\n\r\n");
    let one = async |number: u8| -> Result<()> {
        // None is closed by the client, who could not tell without reading whether the server has.
        let mut streams = vec![];
        let mut every = tokio::time::interval(Duration::from_secs(2));
        loop {
            every.tick().await;
            let from = Ipv4Addr::new(127, 0, 0, 2 + number % 3);
            let mut stream = connect_from(from, api).await?;
            // The server may have closed it at once, because the client has too many.
            let _ = stream.write_all(request.as_bytes()).await;
            streams.push(stream);
        }
    };
    join_all((0..30).map(one)).await.into_iter().collect()
}

async fn lives(health: SocketAddr) -> Result<bool> {
    let (status, _) = timeout(PROBE, get(health, "/livez", None))
        .await
        .context("/livez does not answer")??;
    Ok(status == 200)
}

/// Twenty readers at once ask for what costs most.
async fn readers_of_everything(api: SocketAddr, environment: &str, token: &str) -> Result<Answers> {
    let events = format!("/api/v2/environments/acme/{environment}/events");
    let one = async |reader: usize| {
        let mut answers = vec![];
        for round in 0..3 {
            for (path, want) in [
                (format!("{events}?per_page=1"), 200),
                (
                    format!("{events}?per_page=100&page={}", 10 * (reader + 1)),
                    200,
                ),
                (
                    format!("/api/v2/snapshots/acme/{environment}?per_page=100&page=2"),
                    200,
                ),
                // Nothing is as old, and no image has this digest: the whole log is searched.
                (
                    format!("/api/v2/snapshots/acme/{environment}/@%7B2.hours.ago%7D"),
                    404,
                ),
                (
                    format!(
                        "/api/v2/artifacts/acme/none/fingerprint/{:064x}",
                        reader * 10 + round
                    ),
                    404,
                ),
            ] {
                answers.push((get(api, &path, Some(token)).await?.0, want));
            }
        }
        Ok::<_, anyhow::Error>(answers)
    };
    let began = Instant::now();
    let answers = join_all((0..20).map(one)).await;
    println!("20 readers took {:?}", began.elapsed());
    let mut counts = Answers::default();
    for answer in answers {
        for (status, want) in answer? {
            counts.count(status, want)?;
        }
    }
    println!("they got {counts:?}");
    Ok(counts)
}

/// Tokens that nobody has issued, for a while, of which none is sent twice. How many answers had which status.
async fn tokens_that_are_made_up(api: SocketAddr, path: &str) -> Result<BTreeMap<u16, usize>> {
    let end = Instant::now() + Duration::from_secs(3);
    let numbers = stream::iter(0_u64..).take_while(|_| ready(Instant::now() < end));
    let requests = numbers.map(async |number| {
        let token = format!("made-up-{number}");
        get(api, path, Some(&token)).await
    });
    let answers = requests.buffer_unordered(40).try_collect::<Vec<_>>();
    let mut counts = BTreeMap::new();
    for (status, _) in answers.await? {
        *counts.entry(status).or_default() += 1;
    }
    Ok(counts)
}
