//! Driving a call poll by poll.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::Response;
use http_body::Body;

use crate::Broken;

/// A call and then its body, driven one poll at a time, so that it can be dropped between any two.
#[derive(Debug)]
pub struct Steps<F, B> {
    stage: Stage<F, B>,
}

#[derive(Debug)]
enum Stage<F, B> {
    Call(Pin<Box<F>>),
    Body(B),
    Done,
}

impl<F, B> Steps<F, B>
where
    F: Future<Output = Result<Response<B>, Broken>>,
    B: Body<Data = Bytes, Error = Broken> + Unpin,
{
    /// A call that is not polled yet.
    pub fn new(call: F) -> Self {
        Self {
            stage: Stage::Call(Box::pin(call)),
        }
    }

    /// One poll: of the call, or of its body for one frame. False when there is nothing left.
    pub fn step(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        match &mut self.stage {
            Stage::Call(call) => match call.as_mut().poll(&mut cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(response)) => self.stage = Stage::Body(response.into_body()),
                Poll::Ready(Err(_)) => self.stage = Stage::Done,
            },
            Stage::Body(body) => match Pin::new(body).poll_frame(&mut cx) {
                Poll::Pending | Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => self.stage = Stage::Done,
            },
            Stage::Done => return false,
        }
        true
    }

    /// The same as [`step`](Self::step), as often as told; with no time passing, a call that is
    /// not at its head or end afterwards can only be waiting for the clock or for the script.
    pub async fn settle(&mut self, polls: usize) {
        for _ in 0..polls {
            if self.has_head() || !self.step() {
                break;
            }
            // A fresh budget of tokio's.
            tokio::task::yield_now().await;
        }
    }

    /// The body, once the head has arrived.
    pub fn into_body(self) -> Option<B> {
        match self.stage {
            Stage::Body(body) => Some(body),
            _ => None,
        }
    }

    /// Returns true if the head has arrived, or an error in its place.
    pub const fn has_head(&self) -> bool {
        !matches!(self.stage, Stage::Call(_))
    }
}
