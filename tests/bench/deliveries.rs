//! Part C: deliveries a second of the outbound client, on one thread, to many destinations over TLS.

use crate::receiver::Receiver;
use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use shipbell::http::{
    address_guard::Guard,
    destination::{Destination, DestinationKind},
    response::Outcome,
    sender::{HttpSender, Outgoing, SendKey, SenderConfig},
};
use std::time::{Duration, Instant};

/// Hosts that are sent to.
pub const HOSTS: u8 = 32;
/// About as big as a payload.
const BODY: usize = 1_660;

/// What sending cost.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// Requests a second.
    pub rate: f64,
    /// CPU time of a request on the sending side.
    pub cpu: Duration,
}

/// Sends `count` messages with the operator's client, `at_once` at once, as that many settings do.
pub fn operator(receiver: &Receiver, count: usize, at_once: usize) -> Result<Sending> {
    let mut config = SenderConfig::new(Guard::new(&["127.0.0.0/8".to_owned()], vec![])?);
    config.extra_ca_pem = Some(receiver.ca_pem.clone().into_bytes());
    let sender = HttpSender::new(&config)?;
    let destinations = (1..=usize::from(HOSTS)).map(|host| {
        Destination::parse(
            DestinationKind::Webhook,
            &receiver.url(host, &format!("hook-{host}")),
        )
    });
    let destinations: Vec<_> = destinations
        .collect::<Result<_, _>>()
        .ok()
        .context("an address that is none")?;
    let body: axum::body::Bytes = vec![b'x'; BODY].into();
    let send = |number: usize| {
        let destination = &destinations[number % destinations.len()];
        let outgoing = Outgoing {
            id: format!("event-{number}"),
            body: body.clone(),
            timestamp: Timestamp::now(),
            replay: false,
        };
        let sender = &sender;
        let who = SendKey {
            namespace: "bench".into(),
            setting: (number % destinations.len()).to_string().into(),
        };
        async move {
            let slot = sender.slot(&who, destination).await?;
            Ok(sender.send(&slot, destination, &outgoing).await.outcome)
        }
    };
    measure(count, at_once, async |from, to| {
        let outcomes = stream::iter(from..to).map(send).buffer_unordered(at_once);
        let outcomes = outcomes.collect::<Vec<Result<_>>>().await;
        for outcome in outcomes {
            let outcome = outcome?;
            ensure!(outcome == Outcome::DELIVERED, "not delivered: {outcome:?}");
        }
        Ok(())
    })
}

/// Sends `count` messages as the stock subject does: with a new client each.
pub fn stock(receiver: &Receiver, count: usize, at_once: usize) -> Result<Sending> {
    let ca = receiver.ca_pem.clone().into_bytes();
    let body = "x".repeat(BODY);
    measure(count, at_once, async |from, to| {
        let sent = stream::iter(from..to).map(|number| {
            let url = receiver.url(number % usize::from(HOSTS) + 1, "stock");
            crate::stock::send(url, body.clone(), Some(ca.clone()))
        });
        let results = sent.buffer_unordered(at_once).collect::<Vec<_>>().await;
        results.into_iter().collect()
    })
}

/// Runs it on this thread alone, first a tenth to warm up.
fn measure(
    count: usize,
    at_once: usize,
    send: impl AsyncFn(usize, usize) -> Result<()>,
) -> Result<Sending> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        send(0, (count / 10).max(at_once * 2)).await?;
        let (cpu, begun) = (thread_cpu()?, Instant::now());
        send(0, count).await?;
        let elapsed = begun.elapsed();
        let cpu = thread_cpu()?.saturating_sub(cpu) / u32::try_from(count)?;
        #[allow(clippy::cast_precision_loss)]
        let rate = count as f64 / elapsed.as_secs_f64();
        Ok(Sending { rate, cpu })
    })
}

/// CPU time of this thread.
fn thread_cpu() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split(' ').next().context("no CPU time")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}
