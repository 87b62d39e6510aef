//! One plain HTTP request to a server on loopback, for the questions no client crate is worth loading for.

use anyhow::{Context, Result};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

/// Sends a request and returns the answer's status and body.
///
/// HTTP/1.0, so that the answer ends where the connection does and is never chunked.
pub(crate) async fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(u16, String)> {
    send(TcpStream::connect(to).await?, method, path, "", body).await
}

/// Gets a path, with a bearer token if there is one; returns the answer's status and body.
pub async fn get(to: SocketAddr, path: &str, token: Option<&str>) -> Result<(u16, String)> {
    with_token(to, "GET", path, token).await
}

/// Like [`get`], from another address of this machine than others are.
pub async fn get_from(
    from: Ipv4Addr,
    to: SocketAddr,
    path: &str,
    token: Option<&str>,
) -> Result<(u16, String)> {
    let connection = connect_from(from, to).await?;
    send(connection, "GET", path, &authorization(token), "").await
}

/// Connects from an address of this machine.
pub async fn connect_from(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    Ok(socket.connect(to).await?)
}

/// Sends a request without a body, with a bearer token if there is one; returns the answer's status and body.
pub async fn with_token(
    to: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
) -> Result<(u16, String)> {
    let connection = TcpStream::connect(to).await?;
    send(connection, method, path, &authorization(token), "").await
}

/// The header of a token, if there is one.
fn authorization(token: Option<&str>) -> String {
    token.map_or(String::new(), |token| {
        format!("Authorization: Bearer {token}\r\n")
    })
}

async fn send(
    mut connection: TcpStream,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Result<(u16, String)> {
    let to = connection.peer_addr()?;
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {to}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.context("no HTTP status")?, body.to_owned()))
}
