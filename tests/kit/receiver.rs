//! HTTP receivers that record what they hear and answer by a script.
//!
//! Each has a thread and a runtime of its own: stopping one cuts every connection at once, as a crash would,
//! and the port stays its own, so connecting is refused until it is started again.

use crate::{
    ports::Port,
    tls::{Tls, TlsListener},
};
use anyhow::{Context, Result, bail};
use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, Response},
};
use jiff::Timestamp;
use std::{
    collections::VecDeque,
    fmt,
    net::TcpListener,
    sync::{Arc, Mutex, MutexGuard},
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;

/// More than anybody sends.
const LARGEST_BODY: usize = 64 << 20;

/// One request.
#[derive(Clone, Debug)]
pub struct Heard {
    /// When it was complete.
    pub at: Timestamp,
    /// `POST`, as a rule.
    pub method: String,
    /// The path, with the query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
    /// The status it is answered with; 0 if it is left to hang.
    pub answered: u16,
}

impl Heard {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// What a receiver answers. The default is what a Slack webhook says when all is well: 200, `ok`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Headers, such as `Retry-After`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// How long to wait before answering.
    pub delay: Duration,
    /// Never to answer. The request is recorded.
    pub hang: bool,
}

impl Default for Answer {
    fn default() -> Self {
        Answer {
            status: 200,
            headers: Vec::new(),
            body: "ok".to_owned(),
            delay: Duration::ZERO,
            hang: false,
        }
    }
}

impl From<u16> for Answer {
    fn from(status: u16) -> Self {
        Answer {
            status,
            ..Answer::default()
        }
    }
}

impl Answer {
    /// No answer, ever.
    pub fn hang() -> Self {
        Answer {
            hang: true,
            ..Answer::default()
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(self, body: &str) -> Self {
        Answer {
            body: body.to_owned(),
            ..self
        }
    }

    /// Sets how long to wait before answering.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Answer { delay, ..self }
    }
}

type AnswerFn = Arc<dyn Fn(&Heard) -> Answer + Send + Sync>;

struct Script {
    queue: VecDeque<Answer>,
    standing: AnswerFn,
}

struct Shared {
    script: Mutex<Script>,
    heard: watch::Sender<Vec<Heard>>,
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script
            .lock()
            .expect("nobody panics while holding the script")
    }
}

/// A receiver on 127.0.0.1.
pub struct Receiver {
    port: Port,
    tls: Option<Tls>,
    shared: Arc<Shared>,
    server: Mutex<Option<Server>>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receiver({})", self.url("/"))
    }
}

impl Receiver {
    /// Starts a receiver that answers 200, `ok`. Panics when there is no port to be had.
    pub fn start() -> Self {
        Self::start_on(None).expect("a receiver can be started")
    }

    /// Starts one that speaks TLS, with a certificate of the authority [`Receiver::ca_pem`].
    pub fn start_tls() -> Self {
        Tls::new("shipbell-test-receiver-ca", &["localhost", "127.0.0.1"])
            .and_then(|tls| Self::start_on(Some(tls)))
            .expect("a TLS receiver can be started")
    }

    fn start_on(tls: Option<Tls>) -> Result<Self> {
        let receiver = Receiver {
            port: Port::reserve()?,
            tls,
            shared: Arc::new(Shared {
                script: Mutex::new(Script {
                    queue: VecDeque::new(),
                    standing: Arc::new(|_| Answer::default()),
                }),
                heard: watch::Sender::new(Vec::new()),
            }),
            server: Mutex::new(None),
        };
        receiver.restart()?;
        Ok(receiver)
    }

    /// The URL of a path that starts with `/`.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.port.address())
    }

    /// The authority that signed the certificate, in PEM; empty without TLS.
    pub fn ca_pem(&self) -> &str {
        self.tls.as_ref().map_or("", |tls| &tls.ca_pem)
    }

    /// Queues an answer. The queue is used up before the standing answer counts.
    pub fn answer_next(&self, answer: impl Into<Answer>) {
        self.shared.script().queue.push_back(answer.into());
    }

    /// Sets the standing answer.
    pub fn set_standing(&self, answer: impl Into<Answer>) {
        let answer = answer.into();
        self.answer_with(move |_| answer.clone());
    }

    /// Lets a function give the standing answers.
    pub fn answer_with(&self, answer: impl Fn(&Heard) -> Answer + Send + Sync + 'static) {
        self.shared.script().standing = Arc::new(answer);
    }

    /// All that was heard so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.shared.heard.borrow().clone()
    }

    /// What is heard, as it is heard.
    pub fn follow(&self) -> watch::Receiver<Vec<Heard>> {
        self.shared.heard.subscribe()
    }

    /// Forgets what was heard so far.
    pub fn forget(&self) {
        self.shared.heard.send_modify(Vec::clear);
    }

    /// Waits until what was heard is enough, and returns it.
    pub async fn wait_for(
        &self,
        timeout: Duration,
        enough: impl Fn(&[Heard]) -> bool,
    ) -> Result<Vec<Heard>> {
        let mut heard = self.shared.heard.subscribe();
        let waited = tokio::time::timeout(timeout, heard.wait_for(|heard| enough(heard))).await;
        if let Ok(Ok(heard)) = waited {
            return Ok(heard.clone());
        }
        let heard = self.heard();
        let lines: Vec<_> = heard
            .iter()
            .map(|it| {
                let body: String = it.text().chars().take(300).collect();
                format!("  {} {} {} {body}", it.at, it.method, it.path)
            })
            .collect();
        bail!(
            "waited {timeout:?} at {}; heard {}:\n{}",
            self.url("/"),
            heard.len(),
            lines.join("\n")
        )
    }

    /// Waits until `count` requests were heard.
    pub async fn wait_for_count(&self, timeout: Duration, count: usize) -> Result<Vec<Heard>> {
        self.wait_for(timeout, |heard| heard.len() >= count).await
    }

    /// Cuts all connections; new ones are refused.
    pub fn stop(&self) {
        let server = self.server().take();
        drop(server);
    }

    /// Listens again on the same port. What was heard, and the script, are kept.
    pub fn restart(&self) -> Result<()> {
        self.stop();
        let listener =
            TcpListener::bind(self.port.address()).context("the receiver's port was taken")?;
        listener.set_nonblocking(true)?;
        let acceptor = self.tls.as_ref().map(|tls| tls.acceptor.clone());
        *self.server() = Some(Server::start(listener, acceptor, self.shared.clone())?);
        Ok(())
    }

    fn server(&self) -> MutexGuard<'_, Option<Server>> {
        self.server
            .lock()
            .expect("nobody panics while holding the server")
    }
}

/// A thread that serves until dropped.
struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(
        listener: TcpListener,
        acceptor: Option<TlsAcceptor>,
        shared: Arc<Shared>,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("kit-receiver".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        _ = serve(listener, acceptor, shared) => {}
                    }
                });
                // Dropping the runtime ends the connections too.
            })?;
        Ok(Server {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn serve(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    shared: Arc<Shared>,
) -> Result<()> {
    let app = axum::Router::new().fallback(answer).with_state(shared);
    let listener = tokio::net::TcpListener::from_std(listener)?;
    match acceptor {
        None => axum::serve(listener, app).await?,
        Some(acceptor) => axum::serve(TlsListener::new(listener, acceptor)?, app).await?,
    }
    Ok(())
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, LARGEST_BODY).await else {
        return Response::builder()
            .status(400)
            .body(Body::empty())
            .unwrap_or_default();
    };
    let mut heard = Heard {
        at: Timestamp::now(),
        method: parts.method.to_string(),
        path: parts
            .uri
            .path_and_query()
            .map_or_else(String::new, ToString::to_string),
        headers: parts.headers,
        body: body.to_vec(),
        answered: 0,
    };
    let (queued, standing) = {
        let mut script = shared.script();
        (script.queue.pop_front(), script.standing.clone())
    };
    let answer = queued.unwrap_or_else(|| standing(&heard));
    heard.answered = if answer.hang { 0 } else { answer.status };
    shared.heard.send_modify(|all| all.push(heard));
    if answer.hang {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(answer.delay).await;
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    response
        .body(Body::from(answer.body))
        .expect("a test's status and headers are valid")
}
