//! A receiver that never comes to the end of its answer: it drips, or it floods.

use crate::ports::Port;
use anyhow::{Context as _, Result};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// A receiver on 127.0.0.1; dropping it ends it.
#[derive(Debug)]
pub struct Drip {
    port: Port,
    counts: Arc<Counts>,
    accept: AbortHandle,
}

#[derive(Debug, Default)]
struct Counts {
    heard: AtomicUsize,
    left: AtomicUsize,
}

/// What is said, whatever is asked.
#[derive(Clone, Copy)]
struct Script {
    first: &'static str,
    more: &'static [u8],
    every: Duration,
}

impl Drip {
    /// Starts one that answers with `first`, and then with `more` again and again, `every` so often, for as long as
    /// somebody listens.
    pub fn start(first: &'static str, more: &'static [u8], every: Duration) -> Result<Self> {
        let port = Port::reserve()?;
        let listener = std::net::TcpListener::bind(port.address())?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let counts = Arc::new(Counts::default());
        let script = Script { first, more, every };
        let accept = tokio::spawn(accept(listener, script, counts.clone())).abort_handle();
        Ok(Drip {
            port,
            counts,
            accept,
        })
    }

    /// The URL of a path that starts with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.port.address())
    }

    /// How many requests were heard.
    pub fn heard(&self) -> usize {
        self.counts.heard.load(Relaxed)
    }

    /// How many of those who asked have hung up.
    pub fn left(&self) -> usize {
        self.counts.left.load(Relaxed)
    }
}

impl Drop for Drip {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn accept(listener: TcpListener, script: Script, counts: Arc<Counts>) {
    // They end with the task that owns them.
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream, script, counts.clone()));
        }
    }
}

async fn serve(mut stream: TcpStream, script: Script, counts: Arc<Counts>) {
    if read_request(&mut stream).await.is_err() {
        return;
    }
    counts.heard.fetch_add(1, Relaxed);
    let mut told = stream.write_all(script.first.as_bytes()).await;
    while told.is_ok() {
        tokio::time::sleep(script.every).await;
        told = stream.write_all(script.more).await;
    }
    counts.left.fetch_add(1, Relaxed);
}

/// Reads a request to the end of its body, whose length it tells.
async fn read_request(stream: &mut TcpStream) -> Result<()> {
    let mut request = Vec::new();
    loop {
        let count = stream.read_buf(&mut request).await?;
        anyhow::ensure!(count > 0, "it ends too early");
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let head = head.to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .context("no content-length")?;
        if body.len() >= length.trim().parse()? {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventually;

    #[tokio::test]
    async fn it_drips_until_the_other_side_hangs_up() {
        let drip = Drip::start("HTTP/1.1 200 ", b"x", Duration::from_millis(1)).unwrap();
        let mut asks = TcpStream::connect(drip.port.address()).await.unwrap();
        let request = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nok";
        asks.write_all(request).await.unwrap();
        let mut told = [0; 16];
        asks.read_exact(&mut told).await.unwrap();
        assert_eq!(&told, b"HTTP/1.1 200 xxx");
        assert_eq!((drip.heard(), drip.left()), (1, 0));
        drop(asks);
        let left = eventually(Duration::from_secs(10), "an end", async || drip.left() == 1);
        left.await.unwrap();
    }
}
