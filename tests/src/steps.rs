//! A call that a test drives poll by poll.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::Response;
use http_body::Body;

use crate::Broken;

/// A call and then its body, driven by single polls, so that a test can drop it between any two.
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
    /// Returns a call that was not polled yet.
    pub fn new(call: F) -> Self {
        Self {
            stage: Stage::Call(Box::pin(call)),
        }
    }

    /// Polls the call, or its body for a frame. Returns false at the end.
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

    /// Polls this often at most, until the head or the end. No time passes. A call that is not
    /// finished afterwards waits for the clock or for the script.
    pub async fn settle(&mut self, polls: usize) {
        for _ in 0..polls {
            if self.has_head() || !self.step() {
                break;
            }
            // A fresh budget of tokio's.
            tokio::task::yield_now().await;
        }
    }

    /// Returns the body, if the head has arrived.
    pub fn into_body(self) -> Option<B> {
        match self.stage {
            Stage::Body(body) => Some(body),
            _ => None,
        }
    }

    /// Returns true if the head or an error has arrived.
    pub const fn has_head(&self) -> bool {
        !matches!(self.stage, Stage::Call(_))
    }
}
