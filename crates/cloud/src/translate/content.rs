//! The prompt: tools, system and messages.

use tower_claude_wire::{
    Model, Platform,
    cloud::{Loss, Losses, Unportable},
    json_text,
};

use super::{
    body,
    edit::{Fate, edit_array, edit_object, find},
    target_kind::{TargetKind, generation},
};

/// The reader of a prompt for one target.
pub(super) struct Content<'a> {
    pub(super) target_kind: TargetKind,
    pub(super) platform: Platform,
    pub(super) model: &'a Model,
    /// Returns true if the target accepts this beta.
    pub(super) accepts: &'a dyn Fn(&str) -> bool,
    pub(super) losses: &'a mut Losses,
    /// Ids of calls of other vendors are replaced, and not refused.
    pub(super) replaces_tool_ids: bool,
    /// A tool streams its input early, which is only a beta on some targets.
    pub(super) needs_eager_streaming: bool,
}

const NO_SERVER_TOOLS: &str = "the target does not run this server tool";

type Edited = Result<Option<Vec<u8>>, Unportable>;

impl Content<'_> {
    /// Reads the tools.
    pub(super) fn tools(&mut self, json: &[u8]) -> Edited {
        edit_array(json, |tool| self.tool(tool))
    }

    fn tool(&mut self, json: &[u8]) -> Edited {
        let kind = find(json, "type").and_then(json_text).unwrap_or_default();
        self.check_tool(&kind)?;
        edit_object(json, |name, value| match name {
            "cache_control" => self.cache_control(value).map(Fate::from),
            "eager_input_streaming" if self.target_kind == TargetKind::InvokeModel => {
                if value == b"true" {
                    self.needs_eager_streaming = true;
                    self.losses.push(Loss::Changed {
                        path: "tools[].eager_input_streaming",
                        to: "beta for all tools",
                    });
                }
                Ok(Fate::Drop)
            }
            "allowed_callers" if mentions(value, "code_execution") => Err(Unportable::new(
                "tools[].allowed_callers",
                "the target does not execute code that calls tools",
            )),
            _ => Ok(Fate::Keep),
        })
    }

    fn check_tool(&self, kind: &str) -> Result<(), Unportable> {
        const SERVER: [&str; 5] = [
            "web_fetch_",
            "code_execution_",
            "mcp_toolset",
            "advisor_",
            "web_search_",
        ];
        let refuse = |why| Err(Unportable::new("tools[].type", why));
        // The oldest version of web search runs on Vertex.
        let runs = self.target_kind == TargetKind::Vertex && kind == "web_search_20250305";
        if !runs && SERVER.iter().any(|tool| kind.starts_with(tool)) {
            return refuse(NO_SERVER_TOOLS);
        }
        let can = &self.model.capabilities;
        if can.rejects_tool(kind, self.platform) && !can.rejects_tool(kind, Platform::ClaudeApi) {
            return refuse("the target does not take this tool for the model");
        }
        Ok(())
    }

    /// Reads the system prompt, and the content of a message or a block.
    pub(super) fn blocks(&mut self, json: &[u8]) -> Edited {
        edit_array(json, |block| self.block(block))
    }

    /// Reads the messages.
    pub(super) fn messages(&mut self, json: &[u8]) -> Edited {
        edit_array(json, |message| {
            edit_object(message, |name, value| match name {
                "content" => self.blocks(value).map(Fate::from),
                "output_config"
                    if value != b"null"
                        && !(self.accepts)("mid-conversation-output-config-2026-07-01") =>
                {
                    let why = "the target has no settings of single messages";
                    Err(Unportable::new("messages[].output_config", why))
                }
                "clear_at"
                    if value != b"null"
                        && !(self.accepts)("mid-conversation-system-clear-at-2026-08-21") =>
                {
                    let why = "the target does not clear messages";
                    Err(Unportable::new("messages[].clear_at", why))
                }
                _ => Ok(Fate::Keep),
            })
        })
    }

    fn block(&mut self, json: &[u8]) -> Edited {
        let kind = find(json, "type").and_then(json_text).unwrap_or_default();
        self.check_block(&kind, json)?;
        edit_object(json, |name, value| match (name, &*kind) {
            ("cache_control", _) => self.cache_control(value).map(Fate::from),
            ("content", "tool_result" | "search_result") => self.blocks(value).map(Fate::from),
            ("source", "image" | "document") => self.source(value).map(Fate::from),
            ("id", "tool_use") | ("tool_use_id", "tool_result") => {
                let id = json_text(value).unwrap_or_default();
                if is_tool_id(&id) {
                    return Ok(Fate::Keep);
                }
                if self.replaces_tool_ids {
                    self.losses.push(Loss::Changed {
                        path: "messages[].content[].id",
                        to: "id of the API",
                    });
                    return Ok(Fate::Replace(body::json(&tool_id(&id)).into_bytes()));
                }
                let why = "a call of a tool has the id of another vendor";
                Err(Unportable::new("messages[].content[].id", why))
            }
            // The official SDK removes it for Bedrock, which rejects it.
            ("caller", "tool_use") if value == b"null" && self.target_kind.is_bedrock() => {
                Ok(Fate::Drop)
            }
            ("caller", "tool_use") if mentions(value, "code_execution") => Err(Unportable::new(
                "messages[].content[].caller",
                "the target does not execute code that calls tools",
            )),
            _ => Ok(Fate::Keep),
        })
    }

    fn check_block(&self, kind: &str, json: &[u8]) -> Result<(), Unportable> {
        let refuse = |why| Err(Unportable::new("messages[].content[].type", why));
        match kind {
            "server_tool_use" => {
                let tool = find(json, "name").and_then(json_text).unwrap_or_default();
                let is_web_search = tool == "web_search" && self.target_kind == TargetKind::Vertex;
                if is_web_search || tool.starts_with("tool_search_tool") {
                    return Ok(());
                }
                refuse(NO_SERVER_TOOLS)
            }
            "web_search_tool_result" if self.target_kind == TargetKind::Vertex => Ok(()),
            "web_search_tool_result"
            | "web_fetch_tool_result"
            | "code_execution_tool_result"
            | "bash_code_execution_tool_result"
            | "text_editor_code_execution_tool_result"
            | "advisor_tool_result" => refuse(NO_SERVER_TOOLS),
            "mcp_tool_use" | "mcp_tool_result" | "mcp_tool_listing" => {
                refuse("the target has no MCP connector")
            }
            "container_upload" => refuse("the target has no containers"),
            "fallback" => refuse("the target has no server-side fallback"),
            "compaction" if !self.compacts() => refuse("the target does not compact the context"),
            "tool_addition" | "tool_removal"
                if !(self.accepts)("mid-conversation-tool-changes-2026-07-01") =>
            {
                refuse("the target does not take changes of tools in a conversation")
            }
            _ => Ok(()),
        }
    }

    fn compacts(&self) -> bool {
        (self.accepts)("compact-2026-01-12") || (self.accepts)("compact-2026-09-04")
    }

    /// Reads the source of an image or a document.
    fn source(&mut self, json: &[u8]) -> Edited {
        let kind = find(json, "type").and_then(json_text).unwrap_or_default();
        let refuse = |why| Err(Unportable::new("messages[].content[].source", why));
        match &*kind {
            "url" => refuse("the target does not load URLs"),
            "file" => refuse("the target has no Files API"),
            "content" => edit_object(json, |name, value| match name {
                "content" => self.blocks(value).map(Fate::from),
                _ => Ok(Fate::Keep),
            }),
            _ => Ok(None),
        }
    }

    /// Reads a breakpoint of the prompt cache.
    pub(super) fn cache_control(&mut self, json: &[u8]) -> Edited {
        if json == b"null" {
            return Ok(None);
        }
        // Models before 4.5 have five minutes only.
        let has_ttl = !self.target_kind.is_bedrock()
            || generation(&self.model.id).is_none_or(|of| of >= (4, 5));
        let has_scope = (self.accepts)("prompt-caching-scope-2026-01-05");
        edit_object(json, |name, value| match name {
            "ttl" if !has_ttl => {
                if json_text(value).is_some_and(|ttl| ttl != "5m") {
                    self.losses.push(Loss::Changed {
                        path: "cache_control.ttl",
                        to: "5m",
                    });
                }
                Ok(Fate::Drop)
            }
            "scope" if !has_scope => {
                self.losses.push(Loss::Field("cache_control.scope"));
                Ok(Fate::Drop)
            }
            _ => Ok(Fate::Keep),
        })
    }
}

/// Returns true if the API takes this id of a call of a tool.
fn is_tool_id(id: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (1..=64).contains(&id.len()) && id.bytes().all(is_part)
}

/// Returns an id that the API takes for an id of another vendor. The same id has the same one in
/// every request and in both blocks of a call, so that the prompt cache stays valid.
fn tool_id(id: &str) -> String {
    // FNV-1a. A hash of the standard library may differ between versions.
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("toolu_{hash:016x}")
}

fn mentions(json: &[u8], word: &str) -> bool {
    json.windows(word.len()).any(|part| part == word.as_bytes())
}
