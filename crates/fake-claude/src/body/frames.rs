//! Body of an event stream of AWS: one event per frame.

use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::answer::{Answer, Next};
use super::sse::SseAnswer;
use crate::cloud::frame;
use crate::fault::FrameFault;

/// A stream whose events are sent in frames.
pub(super) struct FrameAnswer {
    stream: SseAnswer,
}

impl FrameAnswer {
    pub(super) fn new(answer: Answer) -> Self {
        Self {
            stream: SseAnswer::new(answer),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.stream.is_done()
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            let event = match ready!(self.stream.poll(cx)) {
                Some(Ok(event)) => event,
                end => return Poll::Ready(end),
            };
            let fault = self.stream.take_frame_fault();
            // InvokeModel sends no pings.
            if fault.is_none() && event.starts_with(b"event: ping\n") {
                continue;
            }
            return Poll::Ready(Some(Ok(self.encode(&event, fault).into())));
        }
    }

    fn encode(&self, event: &Bytes, fault: Option<FrameFault>) -> Vec<u8> {
        let data = frame::data(event);
        match fault {
            None if event.starts_with(b"event: error\n") => frame::exception(
                "serviceUnavailableException",
                "Bedrock is unable to process your request.",
            ),
            None if event.starts_with(b"event: message_stop\n") => frame::chunk(&self.stop()),
            None => frame::chunk(data),
            Some(FrameFault::Exception { name, message }) => frame::exception(&name, &message),
            Some(FrameFault::Error { code, message }) => frame::error(&code, &message),
            Some(FrameFault::BadChecksum) => frame::with_bad_checksum(frame::chunk(data)),
            Some(FrameFault::BadPrelude) => frame::with_bad_prelude(frame::chunk(data)),
            Some(FrameFault::Cut) => frame::cut(frame::chunk(data)),
            Some(FrameFault::UnknownHeader) => frame::chunk_with_unknown_header(data),
            Some(FrameFault::UnknownEvent) => [frame::unknown_event(), frame::chunk(data)].concat(),
            Some(FrameFault::Untyped) => {
                [frame::chunk("{\"internal\":true}"), frame::chunk(data)].concat()
            }
        }
    }

    /// Returns the last event, which has the metrics of the platform.
    fn stop(&self) -> String {
        let (answer, output) = self.stream.made();
        let message = &answer.message;
        let milliseconds = |time: std::time::Duration| time.as_millis();
        format!(
            "{{\"type\":\"message_stop\",\"amazon-bedrock-invocationMetrics\":{{\"inputTokenCount\":{},\"outputTokenCount\":{output},\"invocationLatency\":{},\"firstByteLatency\":{},\"cacheReadInputTokenCount\":{},\"cacheWriteInputTokenCount\":{}}}}}",
            message.input,
            milliseconds(answer.origin.elapsed()),
            milliseconds(answer.pace.first),
            message.cache.read,
            message.cache.written(),
        )
    }
}
