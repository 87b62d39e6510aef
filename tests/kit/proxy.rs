//! A proxy between the operator and the API server that does what networks and servers do on bad days: it loses answers,
//! cuts connections, falls silent, refuses, and tells things that can't be read.
//!
//! It ends TLS towards the operator with a certificate of its own, and asks the API server anew: with the bearer token
//! that came with the request, or else as the administrator.

use crate::{
    plane::{Plane, client},
    ports::Port,
    tls::Tls,
};
use anyhow::{Context as _, Result, anyhow};
use axum::body::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, BodyStream, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use kube::Client;
use serde_json::{Value, json};
use std::{
    fmt, fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

type Fault = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, Fault>;

/// What the operator asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `GET`, as a rule.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The query.
    pub query: String,
}

impl Asked {
    /// A list of this path.
    pub fn lists(&self, path: &str) -> bool {
        self.method == "GET" && self.path == path && !self.query.contains("watch=")
    }

    /// A watch of this path.
    pub fn watches(&self, path: &str) -> bool {
        self.method == "GET" && self.path == path && self.query.contains("watch=")
    }

    /// A list or a watch of this path.
    pub fn follows(&self, path: &str) -> bool {
        self.method == "GET" && self.path == path
    }

    /// A request of this method for something whose path begins so.
    pub fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path.starts_with(path)
    }
}

/// Makes a status and an object of what is sent.
type Played = Arc<dyn Fn(&Asked, Value) -> (u16, Value) + Send + Sync>;

/// What becomes of a request.
#[derive(Clone)]
pub enum Action {
    /// It goes through.
    Pass,
    /// It goes through after a while.
    Delay(Duration),
    /// The proxy answers by itself, with this status, and seconds to wait before another attempt if they are not 0.
    Answer(u16, u32),
    /// The API server does what is asked, and the connection is cut before its answer comes.
    LoseAnswer,
    /// The proxy answers by itself, with what this makes of the request.
    Play(Played),
    /// It never gets there, and is never answered.
    Hang,
    /// It gets there only when this is cancelled.
    HoldUntil(CancellationToken),
    /// It goes through, and each line of the answer is looked at: an event of a watch, or a list as a whole.
    Lines(Arc<dyn Fn(&str) -> Line + Send + Sync>),
}

impl Action {
    /// Looks at each line of the answer.
    pub fn lines(look: impl Fn(&str) -> Line + Send + Sync + 'static) -> Self {
        Action::Lines(Arc::new(look))
    }
}

/// What becomes of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// It goes through.
    Pass,
    /// It goes through after a while, and what follows it after that.
    Late(Duration),
    /// This goes through instead.
    Instead(String),
    /// It is lost.
    Swallow,
    /// It is lost, and the connection with it.
    Cut,
    /// The answer ends in the ordinary way before it.
    End,
}

type Hook = Arc<dyn Fn(&Asked) -> Action + Send + Sync>;

struct Shared {
    admin: Client,
    /// For requests that bring a token of their own.
    anybody: Client,
    hook: Mutex<Hook>,
    asked: Mutex<Vec<Asked>>,
    answered: Mutex<Vec<(Asked, u16)>>,
    cuts: watch::Sender<u64>,
}

/// A proxy on 127.0.0.1; dropping it ends it.
pub struct Proxy {
    port: Port,
    shared: Arc<Shared>,
    accept: AbortHandle,
    directory: PathBuf,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.port.address())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
        self.cut();
    }
}

impl Proxy {
    /// Starts a proxy that lets everything through.
    pub fn start(plane: &Plane) -> Result<Self> {
        let Tls { acceptor, ca_pem } = Tls::new("shipbell-test-proxy-ca", &["127.0.0.1"])?;
        let port = Port::reserve()?;
        let listener = std::net::TcpListener::bind(port.address())?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let directory = plane.directory().join(format!("proxy-{}", port.number()));
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("ca.crt"), ca_pem)?;
        let shared = Arc::new(Shared {
            admin: client(&plane.admin_kubeconfig_json(), false)?,
            anybody: client(&plane.kubeconfig(&json!({})), false)?,
            hook: Mutex::new(Arc::new(|_| Action::Pass)),
            asked: Mutex::default(),
            answered: Mutex::default(),
            cuts: watch::Sender::new(0),
        });
        let accept = tokio::spawn(accept(listener, acceptor, shared.clone())).abort_handle();
        Ok(Proxy {
            port,
            shared,
            accept,
            directory,
        })
    }

    /// Writes a kubeconfig that leads through the proxy, for a bearer token or else for the administrator.
    pub fn kubeconfig(&self, token: Option<&str>) -> Result<PathBuf> {
        let user = token.map_or_else(|| json!({}), |token| json!({"token": token}));
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{}", self.port.address()),
                "certificate-authority": self.directory.join("ca.crt"),
            }}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        let path = self.directory.join("kubeconfig");
        fs::write(&path, kubeconfig.to_string())?;
        Ok(path)
    }

    /// Says what becomes of requests from now on.
    pub fn answer_with(&self, hook: impl Fn(&Asked) -> Action + Send + Sync + 'static) {
        *lock(&self.shared.hook) = Arc::new(hook);
    }

    /// Lets everything through from now on.
    pub fn pass(&self) {
        self.answer_with(|_| Action::Pass);
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// What the API server has answered so far: which request, and the status.
    pub fn answered(&self) -> Vec<(Asked, u16)> {
        lock(&self.shared.answered).clone()
    }

    /// All that was asked for so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding this")
}

/// Changes the objects in a line: those of a list, or that of an event.
pub fn change_objects(line: &str, change: impl Fn(&mut Value)) -> Line {
    let Ok(mut value) = serde_json::from_str::<Value>(line) else {
        return Line::Pass;
    };
    if let Some(items) = value["items"].as_array_mut() {
        items.iter_mut().for_each(change);
        return Line::Instead(value.to_string());
    }
    if value["object"].is_object() && value["type"] != "BOOKMARK" {
        change(&mut value["object"]);
        // The type comes first, as the API server writes it: readers rely on it.
        let event = format!(
            r#"{{"type":{},"object":{}}}"#,
            value["type"], value["object"]
        );
        return Line::Instead(event);
    }
    Line::Pass
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        tokio::spawn(async move {
            let mut cuts = shared.cuts.subscribe();
            let connection = async {
                let stream = acceptor.accept(stream).await?;
                let service = hyper::service::service_fn(|request| serve(request, &shared));
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await?;
                Ok::<(), Fault>(())
            };
            tokio::select! {
                _ = connection => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

/// One request; an error cuts the connection.
async fn serve(request: Request<Incoming>, shared: &Shared) -> Result<Response<Body>, Fault> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let asked = Asked {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
    };
    lock(&shared.asked).push(asked.clone());
    let hook = lock(&shared.hook).clone();
    let action = hook(&asked);
    match &action {
        Action::Answer(status, wait) => return Ok(refusal(*status, *wait)?),
        Action::Play(play) => {
            let sent = serde_json::from_slice(&body).unwrap_or_default();
            let (status, answer) = play(&asked, sent);
            return Ok(json(status, &answer)?);
        }
        Action::Hang => std::future::pending().await,
        Action::HoldUntil(then) => then.cancelled().await,
        Action::Delay(delay) => tokio::time::sleep(*delay).await,
        Action::Pass | Action::LoseAnswer | Action::Lines(_) => {}
    }
    let mut forwarded = Request::builder().method(parts.method).uri(parts.uri);
    if let Some(headers) = forwarded.headers_mut() {
        *headers = end_to_end(parts.headers);
        headers.remove(header::HOST);
        headers.remove(header::ACCEPT_ENCODING);
    }
    let forwarded = forwarded.body(kube::client::Body::from(body.to_vec()))?;
    let with_token = forwarded.headers().contains_key(header::AUTHORIZATION);
    let client = if with_token {
        &shared.anybody
    } else {
        &shared.admin
    };
    let answer = client.send(forwarded).await?;
    lock(&shared.answered).push((asked, answer.status().as_u16()));
    let (head, body) = answer.into_parts();
    let mut response = Response::builder().status(head.status);
    if let Some(headers) = response.headers_mut() {
        *headers = end_to_end(head.headers);
    }
    let frames = BodyStream::new(body).map(|frame| frame.map_err(Fault::from));
    let body = match action {
        Action::LoseAnswer => {
            frames.for_each(|_| std::future::ready(())).await;
            return Err("the answer is lost".into());
        }
        Action::Lines(look) => by_line(frames, look),
        _ => BodyExt::boxed_unsync(StreamBody::new(frames)),
    };
    Ok(response.body(body)?)
}

fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    for name in [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
    ] {
        headers.remove(name);
    }
    headers
}

fn refusal(status: u16, wait: u32) -> Result<Response<Body>> {
    let mut response = json(status, &failure(status, ""))?;
    if wait > 0 {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, wait.into());
    }
    Ok(response)
}

/// What the API server says when it refuses.
pub fn failure(status: u16, reason: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "the test says no", "reason": reason, "code": status,
    })
}

fn json(status: u16, body: &Value) -> Result<Response<Body>> {
    let body = http_body_util::Full::new(Bytes::from(body.to_string()));
    let body = body.map_err(|never| match never {}).boxed_unsync();
    let response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json");
    response.body(body).context("an answer")
}

fn by_line(
    mut frames: impl futures::Stream<Item = Result<Frame<Bytes>, Fault>> + Send + Unpin + 'static,
    look: Arc<dyn Fn(&str) -> Line + Send + Sync>,
) -> Body {
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, Fault>>(16);
    tokio::spawn(async move {
        let mut rest = Vec::new();
        let mut ended = false;
        while !ended {
            match frames.next().await {
                Some(Ok(frame)) => rest.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => {
                    let _ = sender.send(Err(error)).await;
                    return;
                }
                None => ended = true,
            }
            loop {
                let end = rest.iter().position(|byte| *byte == b'\n');
                let line: Vec<u8> = match end {
                    Some(end) => rest.drain(..=end).collect(),
                    None if ended && !rest.is_empty() => std::mem::take(&mut rest),
                    None => break,
                };
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                let line = match look(&line) {
                    Line::Pass => line,
                    Line::Late(after) => {
                        tokio::time::sleep(after).await;
                        line
                    }
                    Line::Instead(line) => line,
                    Line::Swallow => continue,
                    Line::Cut => {
                        let _ = sender.send(Err("the line is cut".into())).await;
                        return;
                    }
                    Line::End => return,
                };
                let frame = Frame::data(Bytes::from(format!("{line}\n")));
                if sender.send(Ok(frame)).await.is_err() {
                    return;
                }
            }
        }
    });
    let lines = futures::stream::unfold(receiver, async |mut receiver| {
        let frame = receiver.recv().await?;
        Some((frame, receiver))
    });
    BodyExt::boxed_unsync(StreamBody::new(lines))
}

/// The error for a wait that a hook never ended.
pub fn never(what: &str) -> anyhow::Error {
    anyhow!("the proxy was never asked for {what}")
}
