//! The causes of cache misses.

use serde_json::{Value, json};
use tower_claude_fake_claude::FakeClaude;
use tower_claude_prompt_cache::PromptCacheLayer;

use crate::common::{SECOND, ask, converse, fake, observed, prompt, text};

/// A conversation with two tools, whose turns are marked.
struct Conversation {
    layer: PromptCacheLayer,
    fake: FakeClaude,
    events: tower_claude_tests::EventLog,
    body: Value,
}

impl Conversation {
    async fn start() -> Self {
        let ((layer, events), fake) = (observed(), fake());
        converse(&layer, &fake, 0..3, 5).await;
        let mut body = prompt(&text(0, 2_000), &[text(900, 300)]);
        body["tools"] = json!([tool("one"), tool("two")]);
        let mut it = Self {
            layer,
            fake,
            events,
            body,
        };
        for turn in 0..4 {
            it.send().await;
            it.add_turn(turn);
        }
        let _ = it.events.take();
        it
    }

    fn add_turn(&mut self, turn: usize) {
        let messages = self.body["messages"].as_array_mut().expect("messages");
        messages.push(json!({"role": "assistant", "content": text(700 + turn, 100)}));
        messages.push(json!({"role": "user", "content": text(800 + turn, 300)}));
    }

    async fn send(&self) -> Vec<String> {
        assert_eq!(ask(&self.layer, &self.fake, &self.body).await.status, 200);
        tokio::time::sleep(10 * SECOND).await;
        self.events.take()
    }
}

fn tool(name: &str) -> Value {
    json!({
        "name": name, "description": text(name.len(), 300),
        "input_schema": {"type": "object"},
    })
}

#[tokio::test(start_paused = true)]
async fn next_turn_is_a_hit() {
    let conversation = Conversation::start().await;
    assert_eq!(conversation.send().await, ["hit"]);
}

#[tokio::test(start_paused = true)]
async fn changed_system_prompt_is_named_with_its_block() {
    let mut conversation = Conversation::start().await;
    conversation.body["system"] = json!(text(1, 2_000));
    assert_eq!(conversation.send().await, ["system_changed 2"]);
}

#[tokio::test(start_paused = true)]
async fn changed_message_is_named_with_its_block() {
    let mut conversation = Conversation::start().await;
    conversation.body["messages"][1]["content"] = json!("another answer");
    assert_eq!(conversation.send().await, ["messages_changed 4"]);
}

#[tokio::test(start_paused = true)]
async fn other_order_of_the_tools_is_named() {
    let mut conversation = Conversation::start().await;
    conversation.body["tools"] = json!([tool("two"), tool("one")]);
    assert_eq!(conversation.send().await, ["tool_order"]);
}

#[tokio::test(start_paused = true)]
async fn other_settings_are_named() {
    let mut conversation = Conversation::start().await;
    conversation.body["tool_choice"] = json!({"type": "none"});
    assert_eq!(conversation.send().await, ["settings"]);
}

#[tokio::test(start_paused = true)]
async fn expired_entry_is_named() {
    let conversation = Conversation::start().await;
    tokio::time::sleep(400 * SECOND).await;
    assert_eq!(conversation.send().await, ["expired"]);
}

#[tokio::test(start_paused = true)]
async fn entry_that_the_server_lost_is_named() {
    let conversation = Conversation::start().await;
    conversation.fake.clear_prompt_cache();
    assert_eq!(conversation.send().await, ["server"]);
    assert_eq!(conversation.layer.handle().snapshot().misses.server, 1);
}
