//! A body that is made in parts: a large one takes no room twice while it grows, and less and less while it is sent.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use serde::Serialize;

use crate::web::held_body::PART;

/// Gathers what is written in parts of the size in which a body is handed on.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    full: VecDeque<Bytes>,
    last: Vec<u8>,
}

impl Parts {
    pub(crate) fn push(&mut self, mut text: &[u8]) {
        while !text.is_empty() {
            if self.last.is_empty() {
                self.last.reserve_exact(PART);
            }
            let room = PART - self.last.len();
            let (fits, rest) = text.split_at(room.min(text.len()));
            self.last.extend_from_slice(fits);
            text = rest;
            if self.last.len() == PART {
                self.full.push_back(std::mem::take(&mut self.last).into());
            }
        }
    }

    pub(crate) fn into_body(self) -> Body {
        let Self { mut full, last } = self;
        if !last.is_empty() {
            full.push_back(last.into());
        }
        Body::new(PartsBody(full))
    }
}

impl io::Write for Parts {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.push(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Write for Parts {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

/// The parts that are not sent yet.
struct PartsBody(VecDeque<Bytes>);

impl HttpBody for PartsBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|part| part.len() as u64).sum())
    }
}

/// An answer of JSON.
pub(crate) fn json(value: &impl Serialize) -> Response {
    let mut parts = Parts::default();
    serde_json::to_writer(&mut parts, value).expect("plain data, written to memory");
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], parts.into_body()).into_response()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use axum::body::to_bytes;

    use super::*;

    #[tokio::test]
    async fn a_body_is_what_was_written_in_parts_of_one_size() {
        for size in [0, 1, PART - 1, PART, PART + 1, 3 * PART + 7] {
            let text: String = ('a'..='z').cycle().take(size).collect();
            for step in [1_000, PART, 4 * PART] {
                let mut parts = Parts::default();
                for piece in text.as_bytes().chunks(step) {
                    parts
                        .write_str(std::str::from_utf8(piece).unwrap())
                        .unwrap();
                }
                assert!(parts.full.iter().all(|part| part.len() == PART));
                let body = parts.into_body();
                assert_eq!(HttpBody::size_hint(&body).exact(), Some(size as u64));
                assert_eq!(to_bytes(body, usize::MAX).await.unwrap(), text.as_bytes());
            }
        }
    }
}
