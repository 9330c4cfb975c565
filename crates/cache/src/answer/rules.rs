//! Which answers may be stored.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use tower_claude_wire::{SseEvent, SseScanner, StreamEvent};

/// What an answer must be to be stored.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// The model that was asked; `None` for a count of tokens, which no model gives.
    pub(crate) model: Option<Box<str>>,
    /// Whether answers that call a tool of the caller's are stored too.
    pub(crate) tool_use: bool,
}

/// Follows an event stream, and knows at its end whether it may be stored. Deltas are counted, never parsed.
#[derive(Debug)]
pub(crate) struct Inspector {
    scanner: SseScanner,
    seen: Seen,
}

#[derive(Debug)]
struct Seen {
    rules: Rules,
    stop_reason: Option<Box<str>>,
    started: bool,
    has_content: bool,
    complete: bool,
    failed: bool,
    /// The first thing that forbids it.
    forbidden: Option<&'static str>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(borrow, default)]
    content: Vec<Block<'a>>,
    #[serde(borrow, default)]
    stop_reason: Option<Cow<'a, str>>,
    #[serde(default)]
    container: Option<IgnoredAny>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
struct Usage {
    #[serde(default)]
    server_tool_use: Option<ServerTools>,
}

#[derive(Deserialize)]
struct ServerTools {
    #[serde(default)]
    web_search_requests: Option<u64>,
    #[serde(default)]
    web_fetch_requests: Option<u64>,
}

#[derive(Deserialize)]
struct Start<'a> {
    #[serde(borrow)]
    message: Message<'a>,
}

#[derive(Deserialize)]
struct BlockStart<'a> {
    #[serde(borrow)]
    content_block: Block<'a>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    delta: Stop<'a>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Stop<'a> {
    #[serde(borrow, default)]
    stop_reason: Option<Cow<'a, str>>,
    #[serde(default)]
    container: Option<IgnoredAny>,
}

/// A count of tokens, and nothing else that has to be known of it.
#[derive(Deserialize)]
struct Count {
    #[serde(rename = "input_tokens")]
    _input_tokens: u64,
}

type Verdict = Result<(), &'static str>;

impl Rules {
    /// Whether a whole JSON answer may be stored; else the first reason against it.
    pub(crate) fn whole(&self, json: &[u8]) -> Verdict {
        if self.model.is_none() {
            let count: Result<Count, _> = serde_json::from_slice(json);
            return count.map(|_| ()).map_err(|_| "unreadable");
        }
        let message: Message<'_> = serde_json::from_slice(json).map_err(|_| "unreadable")?;
        self.message(&message)?;
        self.stop(message.stop_reason.as_deref())
    }

    fn message(&self, message: &Message<'_>) -> Verdict {
        let asked = self.model.as_deref().unwrap_or_default();
        if !is_same_model(asked, &message.model) {
            return Err("model");
        }
        for block in &message.content {
            self.block(block)?;
        }
        side_effects(message.container.is_some(), message.usage.as_ref())
    }

    /// What is not known to be plain content may be the trace of something that happened once.
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
}

fn side_effects(container: bool, usage: Option<&Usage>) -> Verdict {
    let tools = usage.and_then(|usage| usage.server_tool_use.as_ref());
    let used = |count: Option<u64>| count.is_some_and(|count| count > 0);
    let ran = tools.is_some_and(|t| used(t.web_search_requests) || used(t.web_fetch_requests));
    if container || ran {
        return Err("side_effects");
    }
    Ok(())
}

/// A model named without a date is answered by the one with the date that it stands for.
fn is_same_model(asked: &str, served: &str) -> bool {
    let Some(rest) = served.strip_prefix(asked) else {
        return false;
    };
    let is_date = |text: &str| text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit());
    !asked.is_empty() && (rest.is_empty() || rest.strip_prefix('-').is_some_and(is_date))
}

impl Inspector {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            scanner: SseScanner::new(),
            seen: Seen {
                rules,
                stop_reason: None,
                started: false,
                has_content: false,
                complete: false,
                failed: false,
                forbidden: None,
            },
        }
    }

    pub(crate) fn feed(&mut self, data: &[u8]) {
        let seen = &mut self.seen;
        self.scanner.feed(data, |event| seen.event(&event));
    }

    /// Whether content has begun, or nothing of the kind can come any more: the stream is worth handing on.
    pub(crate) const fn has_begun(&self) -> bool {
        self.seen.has_content || self.seen.complete
    }

    /// Whether an `error` event came.
    pub(crate) const fn has_failed(&self) -> bool {
        self.seen.failed
    }

    /// Whether `message_stop` came.
    pub(crate) const fn is_complete(&self) -> bool {
        self.seen.complete
    }

    /// Whether the stream, ended here, may be stored; else the first reason against it.
    pub(crate) fn verdict(&self) -> Verdict {
        let seen = &self.seen;
        if let Some(reason) = seen.forbidden {
            return Err(reason);
        }
        if !seen.started || !seen.complete {
            return Err("incomplete");
        }
        if !self.scanner.at_boundary() {
            return Err("trailing");
        }
        seen.rules.stop(seen.stop_reason.as_deref())
    }
}

impl Seen {
    fn event(&mut self, event: &SseEvent<'_>) {
        let kind = StreamEvent::of(event);
        if self.complete && !matches!(kind, StreamEvent::Ping | StreamEvent::Other) {
            self.forbidden.get_or_insert("trailing");
        }
        if kind == StreamEvent::ContentBlockDelta {
            return;
        }
        if let Err(reason) = self.rare(kind, event) {
            self.forbidden.get_or_insert(reason);
        }
    }

    fn rare(&mut self, kind: StreamEvent, event: &SseEvent<'_>) -> Verdict {
        if event.overflowed {
            return Err("unreadable");
        }
        match kind {
            StreamEvent::MessageStart => {
                if std::mem::replace(&mut self.started, true) {
                    return Err("started_twice");
                }
                let start: Start<'_> = read(event.data)?;
                self.rules.message(&start.message)
            }
            StreamEvent::ContentBlockStart => {
                self.has_content = true;
                let start: BlockStart<'_> = read(event.data)?;
                self.rules.block(&start.content_block)
            }
            StreamEvent::MessageDelta => {
                let delta: Delta<'_> = read(event.data)?;
                if let Some(reason) = delta.delta.stop_reason {
                    self.stop_reason = Some(reason.into());
                }
                side_effects(delta.delta.container.is_some(), delta.usage.as_ref())
            }
            StreamEvent::MessageStop => {
                self.complete = true;
                Ok(())
            }
            StreamEvent::Error => {
                self.failed = true;
                Err("error")
            }
            _ => Ok(()),
        }
    }
}

fn read<'a, T: Deserialize<'a>>(data: &'a [u8]) -> Result<T, &'static str> {
    serde_json::from_slice(data).map_err(|_| "unreadable")
}
