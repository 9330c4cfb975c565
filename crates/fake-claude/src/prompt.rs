//! The prompt of a request as the prompt cache reads it: its blocks, their hashes and the markers.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::Value;
use tower_claude_wire::{CacheTtl, Elements, Prompt, PromptBlock, PromptPart};

use crate::check::{Body, Media};
use crate::model::{CacheBlock, CacheMarker, MarkerError};
use crate::reply::ErrorReply;

/// The beta with which `cache_control` has a `scope`.
const SCOPE_BETA: &str = "prompt-caching-scope-";

/// A prompt with markers.
#[derive(Debug, Default)]
pub(crate) struct CachedPrompt {
    pub(crate) blocks: Vec<CacheBlock>,
    pub(crate) markers: Vec<CacheMarker>,
    /// The tokens of the shortest prefix that is cached.
    pub(crate) least: u64,
}

/// Facts of a request that its blocks do not have.
pub(crate) struct PromptFacts<'a> {
    /// A hash of what separates the caches: endpoint, credential, workspace and model.
    pub(crate) scope: u64,
    pub(crate) fast: bool,
    pub(crate) default_effort: Option<&'a str>,
    /// True if a plain turn of the user removes the thinking before it.
    pub(crate) strips_thinking: bool,
    pub(crate) least: u64,
    /// The most tokens of one image.
    pub(crate) image_tokens: u64,
    pub(crate) bytes_per_1000_tokens: u64,
    /// The tokens of the whole prompt.
    pub(crate) input: u64,
    /// The tokens that the bytes of the whole prompt give.
    pub(crate) counted: u64,
    /// True if a run of blocks of one tool type is one position.
    pub(crate) joins_runs: bool,
}

/// A message, as far as its blocks depend on it.
struct Turn {
    is_user: bool,
    /// True if it has a `clear_at`.
    is_scoped: bool,
}

/// A block with its JSON value.
struct Piece<'a> {
    block: PromptBlock<'a>,
    value: Value,
    /// The path of the block, as in error messages.
    path: String,
    refusal: Option<Refusal>,
    /// False if the model does not see the block.
    is_rendered: bool,
}

/// A reason why a block takes no marker.
#[derive(Clone, Copy)]
enum Refusal {
    Thinking,
    EmptyText,
    /// The block belongs to a call from executed code.
    CalledByCode,
    /// The message is cleared later.
    Scoped,
    /// The tool is not in the prompt before it is found.
    Deferred,
}

/// Reads the prompt of a Messages request with markers. Returns the error of the API for markers
/// that break its rules.
pub(crate) fn read(
    body: &Body<'_>,
    bytes: &[u8],
    facts: &PromptFacts<'_>,
) -> Result<CachedPrompt, ErrorReply> {
    let Some(prompt) = Prompt::parse(bytes) else {
        return Ok(CachedPrompt::default());
    };
    let takes_scope = body.has_beta(&[SCOPE_BETA]);
    let messages = body.fields.get("messages").map_or("", |raw| raw.get());
    let pieces = pieces(&prompt, &turns(messages), facts);
    let mut marked = Vec::new();
    for piece in pieces.iter().filter(|piece| piece.block.inner.is_none()) {
        check(piece, takes_scope, &mut marked)?;
    }
    let top = body.value("cache_control");
    let automatic = lifetime(&top, "cache_control", takes_scope)?;
    let (mut cached, last) = chain(&prompt, &pieces, facts);
    if let (Some(ttl), Some(last)) = (automatic, last) {
        match cached.markers.last() {
            Some(marker) if marker.block == last && marker.ttl == ttl => {}
            Some(marker) if marker.block == last => {
                return Err(ErrorReply::invalid(
                    "cache_control.ttl: the last block has a cache_control with another ttl",
                ));
            }
            _ => {
                cached.markers.push(CacheMarker { block: last, ttl });
                marked.push(("cache_control".to_owned(), ttl));
            }
        }
    }
    check_all(&marked)?;
    Ok(cached)
}

/// Checks the number and the order of all markers, given with their paths.
fn check_all(marked: &[(String, CacheTtl)]) -> Result<(), ErrorReply> {
    let marker = |(block, (_, ttl)): (usize, &(String, CacheTtl))| CacheMarker { block, ttl: *ttl };
    let markers: Vec<_> = marked.iter().enumerate().map(marker).collect();
    CacheMarker::check(&markers).map_err(|error| {
        ErrorReply::invalid(match error {
            MarkerError::LongAfterShort(index) => format!("{}.ttl: {error}", marked[index].0),
            MarkerError::TooMany(_) => error.to_string(),
        })
    })
}

/// Returns the messages of a JSON array.
fn turns(messages: &str) -> Vec<Turn> {
    let turn = |message: &[u8]| {
        let value: Value = serde_json::from_slice(message).unwrap_or_default();
        Turn {
            is_user: value["role"] == "user",
            is_scoped: !value["clear_at"].is_null(),
        }
    };
    let messages = Elements::open(messages.as_bytes());
    messages.into_iter().flatten().map(turn).collect()
}

fn pieces<'a>(prompt: &Prompt<'a>, turns: &[Turn], facts: &PromptFacts<'_>) -> Vec<Piece<'a>> {
    let mut pieces: Vec<Piece<'a>> = Vec::new();
    let mut called_by_code = HashSet::new();
    let last_user = turns.iter().rposition(|turn| turn.is_user);
    let mut plain_turn = 0;
    // The part, the message and the index of the last block.
    let mut place = (PromptPart::Tools, 0, 0);
    prompt.blocks(|block| {
        let turn = block.message;
        if (block.part, turn) != (place.0, place.1) {
            place = (block.part, turn, 0);
        }
        let path = match block.part {
            PromptPart::Tools => format!("tools.{}", place.2),
            PromptPart::System => format!("system.{}", place.2),
            PromptPart::Messages => format!("messages.{turn}.content.{}", place.2),
        };
        if block.inner.is_none() {
            place.2 += 1;
        }
        let value: Value = serde_json::from_slice(block.json).unwrap_or_default();
        let message = turns
            .get(turn)
            .filter(|_| block.part == PromptPart::Messages);
        let is_scoped = message.is_some_and(|message| message.is_scoped);
        let is_user = message.is_some_and(|message| message.is_user);
        if is_user && value["type"] != "tool_result" {
            plain_turn = pieces.len();
        }
        let is_deferred = block.part == PromptPart::Tools && value["defer_loading"] == true;
        let refusal = if is_scoped {
            Some(Refusal::Scoped)
        } else if is_deferred {
            Some(Refusal::Deferred)
        } else {
            refusal(&value, &mut called_by_code)
        };
        pieces.push(Piece {
            block,
            path,
            refusal,
            // A message with `clear_at` is gone after the next one of the user.
            is_rendered: !is_deferred && (!is_scoped || last_user.is_none_or(|last| last < turn)),
            value,
        });
    });
    if facts.strips_thinking {
        for piece in &mut pieces[..plain_turn] {
            piece.is_rendered &= !matches!(piece.refusal, Some(Refusal::Thinking));
        }
    }
    pieces
}

/// Returns the reason why a block takes no marker. `called_by_code` collects the ids of calls from
/// executed code.
fn refusal(value: &Value, called_by_code: &mut HashSet<String>) -> Option<Refusal> {
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    let is_by_code = match text("type") {
        "thinking" | "redacted_thinking" => return Some(Refusal::Thinking),
        "text" if text("text").trim_ascii().is_empty() => return Some(Refusal::EmptyText),
        "tool_use" => {
            let caller = value["caller"]["type"].as_str().unwrap_or_default();
            let is_by_code = caller.starts_with("code_execution");
            if is_by_code {
                called_by_code.insert(text("id").to_owned());
            }
            is_by_code
        }
        "tool_result" => called_by_code.contains(text("tool_use_id")),
        _ => false,
    };
    is_by_code.then_some(Refusal::CalledByCode)
}

/// Checks the markers of a block and in its content, and adds them to `marked`.
fn check(
    piece: &Piece<'_>,
    takes_scope: bool,
    marked: &mut Vec<(String, CacheTtl)>,
) -> Result<(), ErrorReply> {
    let Piece { value, path, .. } = piece;
    let citations = value["citations"].as_array().into_iter().flatten();
    for (index, citation) in citations.enumerate() {
        if !citation["cache_control"].is_null() {
            return Err(ErrorReply::invalid(format!(
                "{path}.text.citations.{index}.cache_control: Extra inputs are not permitted"
            )));
        }
    }
    let content = value["content"].as_array().into_iter().flatten();
    for (index, element) in content.enumerate() {
        let path = format!("{path}.content.{index}.cache_control");
        let ttl = lifetime(&element["cache_control"], &path, takes_scope)?;
        marked.extend(ttl.map(|ttl| (path, ttl)));
    }
    let own = &value["cache_control"];
    let kind = value["type"].as_str().unwrap_or_default();
    if let (Some(refusal), false) = (piece.refusal, own.is_null()) {
        return Err(ErrorReply::invalid(match refusal {
            Refusal::Thinking => {
                format!("{path}.{kind}.cache_control: Extra inputs are not permitted")
            }
            Refusal::EmptyText => {
                let field = match piece.block.part {
                    PromptPart::Messages => ".text",
                    _ => "",
                };
                format!("{path}{field}: cache_control cannot be set for empty text blocks")
            }
            Refusal::CalledByCode => format!(
                "{path}.{kind}: cache_control cannot be set for blocks of calls from code execution"
            ),
            Refusal::Deferred => format!(
                "Tool '{}' cannot have both defer_loading=true and cache_control set. Tools with defer_loading cannot use prompt caching.",
                value["name"].as_str().unwrap_or_default()
            ),
            Refusal::Scoped => {
                format!("{path}: cache_control cannot be set in a message with clear_at")
            }
        }));
    }
    let path = format!("{path}.cache_control");
    let ttl = lifetime(own, &path, takes_scope)?;
    marked.extend(ttl.map(|ttl| (path, ttl)));
    Ok(())
}

/// Returns the lifetime of a marker. `None` without a marker.
fn lifetime(marker: &Value, path: &str, takes_scope: bool) -> Result<Option<CacheTtl>, ErrorReply> {
    let invalid = |message: String| Err(ErrorReply::invalid(format!("{path}{message}")));
    let fields = match marker {
        Value::Null => return Ok(None),
        Value::Object(fields) => fields,
        _ => return invalid(": Input should be an object".to_owned()),
    };
    match fields.get("type") {
        Some(Value::String(kind)) if kind == "ephemeral" => {}
        None => return invalid(".type: Field required".to_owned()),
        Some(kind) => {
            return invalid(format!(
                ": Input tag {kind} found using 'type' does not match any of the expected tags: 'ephemeral'"
            ));
        }
    }
    let extra = |name: &&String| match name.as_str() {
        "type" | "ttl" => false,
        "scope" => !takes_scope,
        _ => true,
    };
    if let Some(name) = fields.keys().find(extra) {
        return invalid(format!(".ephemeral.{name}: Extra inputs are not permitted"));
    }
    match fields.get("ttl") {
        None | Some(Value::Null) => Ok(Some(CacheTtl::FiveMinutes)),
        Some(Value::String(ttl)) if ttl == "5m" => Ok(Some(CacheTtl::FiveMinutes)),
        Some(Value::String(ttl)) if ttl == "1h" => Ok(Some(CacheTtl::OneHour)),
        Some(_) => invalid(".ephemeral.ttl: Input should be '5m' or '1h'".to_owned()),
    }
}

/// Returns the blocks with the hashes of their prefixes and with their markers, and the index of
/// the last block that takes a marker.
fn chain(
    prompt: &Prompt<'_>,
    pieces: &[Piece<'_>],
    facts: &PromptFacts<'_>,
) -> (CachedPrompt, Option<usize>) {
    let mut cached = CachedPrompt {
        least: facts.least,
        ..CachedPrompt::default()
    };
    let mut last = None;
    let mut prefix = facts.scope;
    let mut part = PromptPart::Tools;
    let mut size = Size::default();
    let mut web_search = Size::default();
    let mut before: Option<&Piece<'_>> = None;
    for piece in pieces.iter().filter(|piece| piece.is_rendered) {
        let block = &piece.block;
        let mut hasher = DefaultHasher::new();
        prefix.hash(&mut hasher);
        if part < PromptPart::System && block.part >= PromptPart::System {
            // These keep the cached tools and lose all else.
            facts.fast.hash(&mut hasher);
            hash_web_search(pieces, &mut hasher);
            pieces.iter().any(cites).hash(&mut hasher);
            size.add(web_search);
        }
        if part < PromptPart::Messages && block.part == PromptPart::Messages {
            // These lose the cached messages only.
            prompt.hash_settings_into(facts.default_effort, &mut hasher);
            let images = pieces.iter().any(|piece| has_image(&piece.value));
            images.hash(&mut hasher);
        }
        part = block.part;
        part.hash(&mut hasher);
        block.hash_into(&mut hasher);
        let mut with_block = size;
        let mut prefix_with_block = hasher.finish();
        if is_web_search(piece) {
            web_search.add(Size::of(piece, facts));
            prefix_with_block = prefix;
        } else {
            with_block.add(Size::of(piece, facts));
        }
        let index = cached.blocks.len();
        cached.blocks.push(CacheBlock {
            prefix: prefix_with_block,
            tokens: with_block.tokens(facts),
            joins: before.is_some_and(|before| joins(before, piece, facts)),
        });
        let ttl = block.breakpoint.map(CacheTtl::of);
        let marker = ttl.map(|ttl| CacheMarker { block: index, ttl });
        cached.markers.extend(marker);
        // After an inner marker the whole block follows.
        if block.inner.is_none() {
            (prefix, size) = (prefix_with_block, with_block);
            if piece.refusal.is_none() {
                last = Some(index);
            }
        }
        before = Some(piece);
    }
    (cached, last)
}

/// Returns true if a block is in the position of the block before it.
fn joins(before: &Piece<'_>, piece: &Piece<'_>, facts: &PromptFacts<'_>) -> bool {
    let kind = &piece.value["type"];
    let is_run = facts.joins_runs
        && (kind == "tool_use" || kind == "tool_result")
        && *kind == before.value["type"];
    // An inner marker does not split its block.
    is_run || before.block.inner.is_some()
}

/// A web search tool changes the system prompt, and not the other tools.
fn is_web_search(piece: &Piece<'_>) -> bool {
    let kind = piece.value["type"].as_str().unwrap_or_default();
    piece.block.part == PromptPart::Tools && kind.starts_with("web_search")
}

fn hash_web_search(pieces: &[Piece<'_>], hasher: &mut DefaultHasher) {
    for piece in pieces.iter().filter(|piece| is_web_search(piece)) {
        piece.block.hash_into(hasher);
    }
}

/// Returns true for a document with citations.
fn cites(piece: &Piece<'_>) -> bool {
    piece.value["citations"]["enabled"] == true
}

/// Returns true for an image, also in the content of a block.
fn has_image(value: &Value) -> bool {
    let within = [&value["content"], &value["source"]["content"]];
    let elements = within.into_iter().filter_map(Value::as_array).flatten();
    value["type"] == "image" || elements.into_iter().any(has_image)
}

/// The size of a part of a prompt, without its markers.
#[derive(Clone, Copy, Default)]
struct Size {
    text_bytes: u64,
    media_tokens: u64,
}

impl Size {
    /// Returns the size of a block up to its end or its inner marker.
    fn of(piece: &Piece<'_>, facts: &PromptFacts<'_>) -> Self {
        let mut value = piece.value.clone();
        let content = value.get_mut("content").and_then(Value::as_array_mut);
        if let Some(content) = content {
            let inner = piece.block.inner;
            content.truncate(inner.map_or(usize::MAX, |inner| inner.elements));
            content.iter_mut().for_each(remove_marker);
        }
        remove_marker(&mut value);
        let mut media = Media::default();
        media.add(&value, facts.image_tokens);
        let text = match &value {
            Value::String(text) => text.len(),
            // As long as the same text as a string.
            Value::Object(fields) if fields.len() == 2 && value["type"] == "text" => {
                value["text"].as_str().map_or(0, str::len)
            }
            _ => value.to_string().len(),
        };
        let bytes = (text + piece.block.role.len()) as u64;
        Self {
            text_bytes: bytes.saturating_sub(media.bytes),
            media_tokens: media.tokens,
        }
    }

    fn add(&mut self, other: Self) {
        self.text_bytes += other.text_bytes;
        self.media_tokens += other.media_tokens;
    }

    /// Returns the tokens, at most those of the whole prompt.
    fn tokens(self, facts: &PromptFacts<'_>) -> u64 {
        let text = self.text_bytes.saturating_mul(1_000) / facts.bytes_per_1000_tokens.max(1);
        let tokens = u128::from(text + self.media_tokens);
        // The size of the prompt may be scripted.
        let scaled = tokens * u128::from(facts.input) / u128::from(facts.counted.max(1));
        u64::try_from(scaled).unwrap_or(u64::MAX).min(facts.input)
    }
}

fn remove_marker(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.remove("cache_control");
    }
}
