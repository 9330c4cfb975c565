//! Rules that decide which responses may be stored.

use std::{borrow::Cow, mem};

use serde::{Deserialize, de::IgnoredAny};
use tower_claude_wire::{ModelCatalog, SseEvent, StreamEvent, StreamState};

/// Conditions that a response must meet to be stored.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// The requested model. `None` for a count of tokens, whose response names no model.
    pub(crate) model: Option<Box<str>>,
    /// True if responses that call a tool of the caller are stored too.
    pub(crate) tool_use: bool,
}

/// A follower of an event stream that checks it against the [`Rules`].
#[derive(Debug)]
pub(crate) struct StreamCheck {
    rules: Rules,
    stream: StreamState,
    started: bool,
    /// A content block has begun, so that the kind of the content is known.
    has_block: bool,
    complete: bool,
    /// The first reason not to store the response.
    rejected: Option<&'static str>,
}

#[derive(Deserialize)]
struct MessageJson<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(borrow, default)]
    content: Vec<Block<'a>>,
    #[serde(borrow)]
    stop_reason: Option<Cow<'a, str>>,
    container: Option<IgnoredAny>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Usage {
    server_tool_use: Option<ServerTools>,
}

#[derive(Deserialize)]
struct ServerTools {
    // Some gateways write whole numbers as `0.0`.
    web_search_requests: Option<f64>,
    web_fetch_requests: Option<f64>,
}

#[derive(Deserialize)]
struct Start<'a> {
    #[serde(borrow)]
    message: MessageJson<'a>,
}

#[derive(Deserialize)]
struct BlockStart<'a> {
    #[serde(borrow)]
    content_block: Block<'a>,
}

#[derive(Deserialize)]
struct Delta {
    delta: DeltaFields,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct DeltaFields {
    container: Option<IgnoredAny>,
}

/// A count of tokens, of which nothing else matters.
#[derive(Deserialize)]
struct Count {
    #[serde(rename = "input_tokens")]
    _input_tokens: f64,
}

/// `Ok`, or the reason not to store the response.
type Verdict = Result<(), &'static str>;

impl Rules {
    /// Checks a complete JSON response. The error is the first reason not to store it.
    pub(crate) fn check(&self, json: &[u8]) -> Verdict {
        if self.model.is_none() {
            let count: Result<Count, _> = serde_json::from_slice(json);
            return count.map(|_| ()).map_err(|_| "unreadable");
        }
        let message: MessageJson<'_> = serde_json::from_slice(json).map_err(|_| "unreadable")?;
        self.message(&message)?;
        self.stop(message.stop_reason.as_deref())
    }

    fn message(&self, message: &MessageJson<'_>) -> Verdict {
        let asked = self.model.as_deref().unwrap_or_default();
        if !ModelCatalog::builtin().is_answer(asked, &message.model) {
            return Err("model");
        }
        for block in &message.content {
            self.block(block)?;
        }
        side_effects(message.container.is_some(), message.usage.as_ref())
    }

    /// Rejects unknown kinds of content, because they may be traces of an action.
    fn block(&self, block: &Block<'_>) -> Verdict {
        match &*block.kind {
            "text" | "thinking" | "redacted_thinking" => Ok(()),
            "tool_use" if self.tool_use => Ok(()),
            _ => Err("content"),
        }
    }

    fn stop(&self, reason: Option<&str>) -> Verdict {
        match reason {
            Some("end_turn" | "stop_sequence") => Ok(()),
            Some("tool_use") if self.tool_use => Ok(()),
            _ => Err("stop_reason"),
        }
    }

    /// Checks one event of a stream. Deltas are never parsed.
    fn event(&self, kind: StreamEvent, event: &SseEvent<'_>) -> Verdict {
        match kind {
            StreamEvent::ContentBlockDelta => Ok(()),
            _ if event.overflowed => Err("unreadable"),
            StreamEvent::MessageStart => self.message(&read::<Start<'_>>(event.data)?.message),
            StreamEvent::ContentBlockStart => {
                self.block(&read::<BlockStart<'_>>(event.data)?.content_block)
            }
            StreamEvent::MessageDelta => {
                let Delta { delta, usage } = read(event.data)?;
                side_effects(delta.container.is_some(), usage.as_ref())
            }
            StreamEvent::Error => Err("error"),
            _ => Ok(()),
        }
    }
}

fn side_effects(container: bool, usage: Option<&Usage>) -> Verdict {
    let tools = usage.and_then(|usage| usage.server_tool_use.as_ref());
    let used = |count: Option<f64>| count.is_some_and(|count| count > 0.0);
    let ran = tools.is_some_and(|t| used(t.web_search_requests) || used(t.web_fetch_requests));
    if container || ran {
        return Err("side_effects");
    }
    Ok(())
}

impl StreamCheck {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            stream: StreamState::new(),
            started: false,
            has_block: false,
            complete: false,
            rejected: None,
        }
    }

    pub(crate) fn feed(&mut self, data: &[u8]) {
        let Self {
            rules,
            stream,
            started,
            has_block,
            complete,
            rejected,
        } = self;
        stream.feed_with(data, |kind, event| {
            let is_first = kind != StreamEvent::MessageStart || !mem::replace(started, true);
            *has_block |= kind == StreamEvent::ContentBlockStart;
            let verdict = if *complete && !matches!(kind, StreamEvent::Ping | StreamEvent::Other) {
                Err("trailing")
            } else if !is_first {
                Err("started_twice")
            } else if kind == StreamEvent::ContentBlockDelta && !*has_block {
                Err("content")
            } else {
                rules.event(kind, event)
            };
            *complete |= kind == StreamEvent::MessageStop;
            if let Err(reason) = verdict {
                rejected.get_or_insert(reason);
            }
        });
    }

    /// Returns true if content has begun or the stream is complete, so that the response is worth
    /// forwarding.
    pub(crate) fn has_begun(&self) -> bool {
        self.stream.has_content() || self.stream.is_complete()
    }

    /// Returns true if an `error` event was received.
    pub(crate) fn has_failed(&self) -> bool {
        self.stream.error().is_some()
    }

    /// Returns true if `message_stop` was received.
    pub(crate) fn is_complete(&self) -> bool {
        self.stream.is_complete()
    }

    /// Checks the stream, if it ends here. The error is the first reason not to store it.
    pub(crate) fn verdict(&self) -> Verdict {
        if let Some(reason) = self.rejected {
            return Err(reason);
        }
        if !self.stream.started() || !self.stream.is_complete() {
            return Err("incomplete");
        }
        if !self.stream.at_boundary() {
            return Err("trailing");
        }
        self.rules.stop(self.stream.stop_reason())
    }
}

fn read<'a, T: Deserialize<'a>>(data: &'a [u8]) -> Result<T, &'static str> {
    serde_json::from_slice(data).map_err(|_| "unreadable")
}
