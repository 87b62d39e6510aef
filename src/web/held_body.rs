//! A body that holds something until it is sent: what a request takes up is free again only then.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{Error, body::Body, response::Response};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

/// A body is handed on in parts of this size at most. The connection takes the next part when it has sent most of those
/// before, so a body that is not read is not copied.
const PART: usize = 16 << 10;

/// A body, and what is dropped when its last part is taken.
struct HeldBody<T> {
    inner: Body,
    /// What is left of the last part of `inner`.
    rest: Bytes,
    _held: T,
}

/// Makes the body of a response hold something.
pub(crate) fn hold(response: Response, held: impl Unpin + Send + 'static) -> Response {
    response.map(|inner| {
        Body::new(HeldBody {
            inner,
            rest: Bytes::new(),
            _held: held,
        })
    })
}

impl<T: Unpin> HttpBody for HeldBody<T> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match Pin::new(&mut this.inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return other,
            }
        }
        let part = this.rest.split_to(this.rest.len().min(PART));
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::{body::to_bytes, response::IntoResponse as _};
    use futures::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn what_a_body_holds_is_free_when_its_last_part_is_taken_and_not_before() {
        let held = Arc::new(());
        let content: Vec<u8> = (0_u8..=255).cycle().take(PART * 3 + 7).collect();
        let mut body = hold(content.clone().into_response(), held.clone()).into_body();
        assert_eq!(body.size_hint().exact(), Some(content.len() as u64));
        let mut seen = vec![];
        while !body.is_end_stream() {
            assert_eq!(Arc::strong_count(&held), 2);
            let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            let part = frame.unwrap().unwrap().into_data().unwrap();
            assert!(part.len() <= PART);
            seen.extend_from_slice(&part);
        }
        drop(body);
        assert_eq!(Arc::strong_count(&held), 1);
        assert_eq!(seen, content);
    }

    #[tokio::test]
    async fn a_body_that_is_thrown_away_frees_what_it_holds() {
        let held = Arc::new(());
        drop(hold("text".into_response(), held.clone()));
        assert_eq!(Arc::strong_count(&held), 1);
        let whole = hold("text".into_response(), held.clone()).into_body();
        assert_eq!(to_bytes(whole, 10).await.unwrap(), "text");
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
