//! A receiver over TLS: it says `ok`, and when it heard what.

use anyhow::{Result, bail};
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::Response,
};
use kit::tls;
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// A receiver, which lives as long as the process.
pub struct Receiver {
    /// Where it listens.
    pub address: SocketAddr,
    /// The authority that signed its certificate.
    pub ca_pem: String,
    heard: Arc<Heard>,
}

#[derive(Default)]
struct Heard {
    count: AtomicUsize,
    /// Path, body, and when the head of the request had come; empty unless they are kept.
    kept: Mutex<Vec<(String, String, Instant)>>,
    keep: bool,
}

impl Receiver {
    /// Starts one on all addresses of 127.0.0.1 to 127.0.0.`hosts`. `keep`: remembers what it hears.
    pub fn start(hosts: u8, keep: bool) -> Result<Self> {
        let heard = Arc::new(Heard {
            keep,
            ..Heard::default()
        });
        let app = Router::new().fallback(answer).with_state(heard.clone());
        let names: Vec<_> = (1..=hosts).map(|host| format!("127.0.0.{host}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let (address, ca_pem) = tls::serve("receiver-ca", app, "0.0.0.0", &names)?;
        Ok(Self {
            address,
            ca_pem,
            heard,
        })
    }

    /// The URL of a path on one of its addresses.
    pub fn url(&self, host: usize, path: &str) -> String {
        format!("https://127.0.0.{host}:{}/{path}", self.address.port())
    }

    /// How many requests it has heard.
    pub fn count(&self) -> usize {
        self.heard.count.load(Relaxed)
    }

    /// Waits until it has heard so many.
    pub async fn wait(&self, count: usize, patience: Duration) -> Result<()> {
        let limit = Instant::now() + patience;
        while self.count() < count {
            if Instant::now() > limit {
                bail!("heard {} requests of {count}", self.count());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// What it has kept: path, body, when.
    pub fn kept(&self) -> Vec<(String, String, Instant)> {
        let kept = self.heard.kept.lock();
        kept.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn answer(State(heard): State<Arc<Heard>>, request: Request) -> Response<Body> {
    let at = Instant::now();
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap_or_default();
    if heard.keep {
        let body = String::from_utf8_lossy(&body).into_owned();
        let mut kept = heard.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push((parts.uri.path().to_owned(), body, at));
    }
    heard.count.fetch_add(1, Relaxed);
    Response::new(Body::from("ok"))
}
