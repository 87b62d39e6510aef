//! A body that holds something until it is sent: what a request takes up is free again only then.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{Error, body::Body, response::Response};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

/// A body is handed on in parts of this size at most. The connection takes the next part when it has sent most of those
/// before. The parts of a larger body are copies: with a part of the body itself, the connection would keep all of it until
/// that part is sent.
pub(crate) const PART: usize = 16 << 10;

/// A body, and what is dropped when its last part is taken.
struct HeldBody<T> {
    inner: Body,
    /// What is left of the last part of `inner`, if that was a large one.
    rest: Bytes,
    /// What is done when a part is taken.
    on_part: fn(&T),
    held: T,
}

/// Makes the body of a response hold something.
pub(crate) fn hold(response: Response, held: impl Unpin + Send + 'static) -> Response {
    hold_and_tell(response, held, |_| {})
}

/// Makes the body of a response hold something that is told of each part that is taken.
pub(crate) fn hold_and_tell<T: Unpin + Send + 'static>(
    response: Response,
    held: T,
    on_part: fn(&T),
) -> Response {
    response.map(|inner| {
        Body::new(HeldBody {
            inner,
            rest: Bytes::new(),
            on_part,
            held,
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
                    Ok(data) if data.len() > PART => this.rest = data,
                    Ok(data) => {
                        (this.on_part)(&this.held);
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return other,
            }
        }
        let part = this.rest.split_to(this.rest.len().min(PART));
        (this.on_part)(&this.held);
        Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&part)))))
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
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

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
    async fn the_parts_of_a_large_body_do_not_keep_the_body() {
        struct Owner(Arc<Vec<u8>>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let content = Arc::new(vec![0_u8; PART + 1]);
        let bytes = Bytes::from_owner(Owner(content.clone()));
        let mut body = hold(bytes.into_response(), ()).into_body();
        let mut parts = vec![];
        while !body.is_end_stream() {
            parts.push(poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await);
        }
        drop(body);
        assert_eq!((parts.len(), Arc::strong_count(&content)), (2, 1));
    }

    #[tokio::test]
    async fn what_is_held_is_told_of_each_part_that_is_taken() {
        let parts = Arc::new(AtomicUsize::new(0));
        let count = |parts: &Arc<AtomicUsize>| {
            parts.fetch_add(1, Ordering::Relaxed);
        };
        for (size, want) in [(1, 1), (PART, 1), (PART + 1, 2), (3 * PART, 3)] {
            parts.store(0, Ordering::Relaxed);
            let response = vec![0_u8; size].into_response();
            let body = hold_and_tell(response, parts.clone(), count).into_body();
            assert_eq!(to_bytes(body, size).await.unwrap().len(), size);
            assert_eq!(parts.load(Ordering::Relaxed), want, "{size}");
        }
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
