//! Predictions of prompt cache reads: the prefixes, the memory and the estimate.

use std::{collections::HashMap, time::Duration};

use http::Request;
use proptest::prelude::*;
use tokio::time::Instant;
use tower_claude_core::{
    Cost, EstimateCost, HeuristicCost, RequestBody,
    toolkit::{PendingEstimate, Prefix, PrefixMemory, Prefixes},
};
use tower_claude_wire::Usage;

const MINUTE: Duration = Duration::from_secs(60);

/// A model of the server by the rules in its documentation.
///
/// Prefixes are written at breakpoints. The longest of the 20 blocks back from each breakpoint is
/// read. A lifetime counts from the start of the request, and each use renews it.
#[derive(Default)]
struct Server {
    held: HashMap<Vec<u64>, (Instant, Duration)>,
}

impl Server {
    /// Returns the tokens that are read and written. A token is one byte here.
    fn serve(&mut self, prompt: &[Prefix], now: Instant) -> (u64, u64) {
        let key = |end: usize| -> Vec<u64> { prompt[..=end].iter().map(|p| p.hash).collect() };
        let marked: Vec<_> = (0..prompt.len())
            .filter(|at| prompt[*at].keep.is_some())
            .collect();
        let mut positions = Vec::new();
        for prefix in prompt {
            let last = positions.last().copied().unwrap_or(0);
            positions.push(last + usize::from(!prefix.joins));
        }
        let mut read = None;
        for at in marked.iter().rev() {
            let in_reach = |end: &usize| positions[*at] - positions[*end] < 20;
            for end in (0..=*at).rev().filter(in_reach) {
                let live = self
                    .held
                    .get(&key(end))
                    .is_some_and(|(until, _)| now < *until);
                if live && read.is_none_or(|longest| end > longest) {
                    read = Some(end);
                }
            }
        }
        let limit = read.map(|end| (end, self.held[&key(end)].1));
        for at in read.iter().chain(&marked) {
            let mut keep = prompt[*at].keep.unwrap_or(60 * MINUTE);
            // A breakpoint in the part that is read does not lengthen a lifetime.
            if let Some((end, most)) = limit
                && *at <= end
            {
                keep = keep.min(most);
            }
            let held = self.held.entry(key(*at)).or_insert((now, keep));
            if now < held.0 {
                keep = held.1;
            }
            *held = (held.0.max(now + keep), keep);
        }
        let read = read.map_or(0, |end| prompt[end].bytes);
        let whole = marked.last().map_or(0, |at| prompt[*at].bytes);
        (read, whole - read)
    }
}

/// Returns a conversation of this length in blocks, with breakpoints at the blocks in `marks`.
fn prompt(conversation: u64, length: usize, marks: &[usize], hour: bool) -> Prefixes {
    prompt_with_runs(conversation, length, marks, hour, 1)
}

/// Returns such a conversation in which each position has `run` blocks.
fn prompt_with_runs(
    conversation: u64,
    length: usize,
    marks: &[usize],
    hour: bool,
    run: usize,
) -> Prefixes {
    let keep = if hour { 60 * MINUTE } else { 5 * MINUTE };
    let prefix = |at: usize| Prefix {
        // The first three blocks are the same in all conversations.
        hash: if at < 3 { 0 } else { conversation << 32 } + at as u64,
        bytes: (at as u64 + 1) * 100,
        keep: marks.contains(&at).then_some(keep),
        joins: !at.is_multiple_of(run),
    };
    Prefixes::new((0..length).map(prefix).collect())
}

proptest! {
    /// A client that uses the cache alone predicts the reads exactly.
    #[test]
    fn prediction_equals_the_reads_of_the_server(
        run in 1_usize..4,
        steps in prop::collection::vec(
            (0_u64..4, 1_usize..60, prop::collection::vec(0_usize..60, 0..4), 0_u64..400, any::<bool>()),
            1..80,
        ),
    ) {
        let (mut server, mut memory) = (Server::default(), PrefixMemory::new());
        let mut now = Instant::now();
        for (conversation, length, mut marks, seconds, hour) in steps {
            now += Duration::from_secs(seconds);
            marks.retain(|mark| *mark < length);
            let prompt = prompt_with_runs(conversation, length, &marks, hour && conversation == 1, run);
            let expected = memory.expect(&prompt, now);
            prop_assert_eq!(expected.is_some(), !marks.is_empty());
            let Some(expected) = expected else { continue };
            prop_assert_eq!(memory.renew(expected.id, now), Some(expected.tokens));
            let (read, written) = server.serve(prompt.as_slice(), now);
            prop_assert_eq!(expected.tokens, read);
            prop_assert_eq!(expected.bytes, read);
            memory.learn(expected.id, read, written);
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Prefixes::of(&body, "model", 1);
    }

    #[test]
    fn damaged_json_does_not_panic(at in 0_usize..400, byte in any::<u8>()) {
        let mut body = turn(3, "one").into_bytes();
        let at = at % body.len();
        body[at] = byte;
        let _ = Prefixes::of(&body, "model", 1);
        let _ = Prefixes::of(&body[..at], "model", 1);
    }
}

/// Ten calls in one turn and their results are two positions.
#[test]
fn run_of_tool_blocks_is_one_position() {
    let mut memory = PrefixMemory::new();
    let now = Instant::now();
    let run = |kind: &str| {
        let blocks: Vec<_> = (0..10)
            .map(|id| format!(r#"{{"type":"{kind}","id":"{id}"}}"#))
            .collect();
        blocks.join(",")
    };
    let prompt = |rounds: usize| {
        let round = format!(
            r#",{{"role":"assistant","content":[{}]}},{{"role":"user","content":[{}]}}"#,
            run("tool_use"),
            run("tool_result")
        );
        let body = format!(
            r#"{{"cache_control":{{"type":"ephemeral"}},"messages":[{{"role":"user","content":"Go"}}{}]}}"#,
            round.repeat(rounds)
        );
        Prefixes::of(body.as_bytes(), "m", 1).expect("an object")
    };
    let first = memory.expect(&prompt(0), now).expect("a breakpoint");
    memory.learn(first.id, 0, 2_000);
    let mut read = |prompt: &Prefixes| memory.expect(prompt, now).expect("a breakpoint").tokens;
    // Nine rounds are 18 positions, and ten are 20.
    assert_eq!(read(&prompt(9)), 2_000);
    assert_eq!(read(&prompt(10)), 0);
    // Elsewhere nine rounds are 180 positions.
    assert_eq!(read(&prompt(9).without_runs()), 0);
}

/// A broken server may report any count.
#[test]
fn greatest_token_counts_do_not_overflow() {
    let mut memory = PrefixMemory::new();
    let now = Instant::now();
    let prompt = prompt(1, 1, &[0], false);
    for (read, written) in [(u64::MAX, 0), (u64::MAX, u64::MAX), (0, u64::MAX), (1, 0)] {
        let expected = memory.expect(&prompt, now).expect("a breakpoint");
        memory.learn(expected.id, read, written);
    }
    let expected = memory.expect(&prompt, now).expect("a breakpoint");
    assert_eq!(expected.tokens, 1);
}

/// One response is enough to learn that the server has lost a prefix.
#[test]
fn unread_prefix_is_removed_and_learned_again() {
    let mut memory = PrefixMemory::new();
    let now = Instant::now();
    let prompt = prompt(1, 10, &[9], false);
    let mut expect = |now, read, written| {
        let expected = memory.expect(&prompt, now).expect("a breakpoint");
        memory.learn(expected.id, read, written);
        // A second report of the same request is ignored.
        memory.learn(expected.id, 7, 7);
        expected.tokens
    };
    assert_eq!(expect(now, 0, 900), 0);
    assert_eq!(expect(now, 0, 900), 900, "the server has lost it");
    assert_eq!(expect(now, 0, 0), 900, "the server does not cache it");
    assert_eq!(expect(now, 950, 0), 0, "somebody else has written it");
    assert_eq!(expect(now + 4 * MINUTE, 950, 0), 950);
    assert_eq!(
        expect(now + 8 * MINUTE, 950, 0),
        950,
        "each use begins anew"
    );
    assert_eq!(expect(now + 13 * MINUTE, 950, 0), 0, "five minutes without");
}

/// Neither requests that never end nor many prompts make the memory grow.
#[test]
fn many_prompts_keep_the_memory_bounded() {
    let mut memory = PrefixMemory::new();
    let mut now = Instant::now();
    for conversation in 0..30_000 {
        now += Duration::from_millis(1);
        let prompt = prompt(conversation, 5, &[4], conversation % 2 == 0);
        let first = memory.expect(&prompt, now).expect("a breakpoint");
        memory.expect(&prompt, now).expect("a breakpoint");
        memory.learn(first.id, 0, 500);
        assert!(memory.len() <= 4_096, "{}", memory.len());
    }
    assert!(memory.len() > 2_000);
    let last = prompt(29_998, 5, &[4], true);
    assert_eq!(
        memory.expect(&last, now).map(|reads| reads.tokens),
        Some(500)
    );
}

#[test]
fn waiting_request_is_predicted_again_without_its_prompt() {
    let mut memory = PrefixMemory::new();
    let start = Instant::now();
    let long = prompt(1, 40, &[0, 9, 39], false);
    let waiting = memory.expect(&long, start).expect("a breakpoint").id;
    assert_eq!(memory.renew(waiting, start), Some(0));
    let answer = |memory: &mut PrefixMemory, length: usize, tokens| {
        let other = prompt(1, length, &[length - 1], false);
        let id = memory.expect(&other, start).expect("a breakpoint").id;
        memory.learn(id, 0, tokens);
    };
    // Out of reach of every breakpoint, and then at the limit of the reach of one.
    answer(&mut memory, 15, 1_500);
    assert_eq!(memory.renew(waiting, start), Some(0));
    answer(&mut memory, 21, 2_100);
    assert_eq!(memory.renew(waiting, start), None);
    let anew = memory.expect(&long, start).expect("a breakpoint");
    assert_eq!((anew.tokens, anew.bytes), (2_100, 2_100));
    let later = start + 4 * MINUTE;
    assert_eq!(memory.renew(anew.id, later), Some(2_100));
    // A longer prefix is cached.
    answer(&mut memory, 30, 3_000);
    assert_eq!(memory.renew(anew.id, later), None);
    let longer = memory.expect(&long, later).expect("a breakpoint");
    assert_eq!(longer.tokens, 3_000);
    // The lifetime of a prefix ends, unless the last request has used it.
    assert_eq!(memory.renew(longer.id, start + 5 * MINUTE), None);
    memory.learn(anew.id, 2_100, 1_900);
    assert_eq!(memory.renew(longer.id, later), None);
    memory.forget(longer.id);
    assert_eq!(memory.renew(longer.id, later), None);
}

/// The lifetime does not count from the time at which the request began to wait.
#[test]
fn lifetime_counts_from_the_time_of_sending() {
    let mut memory = PrefixMemory::new();
    let start = Instant::now();
    let prompt = prompt(1, 5, &[4], false);
    let waiting = memory.expect(&prompt, start).expect("a breakpoint").id;
    assert_eq!(memory.renew(waiting, start + 4 * MINUTE), Some(0));
    memory.learn(waiting, 0, 500);
    let mut tokens = |at| memory.expect(&prompt, at).expect("a breakpoint").tokens;
    assert_eq!(tokens(start + 8 * MINUTE), 500);
    assert_eq!(tokens(start + 9 * MINUTE), 0);
}

/// The memory holds as many requests as the default queue of a limiter.
#[test]
fn full_queue_is_remembered() {
    let mut memory = PrefixMemory::new();
    let now = Instant::now();
    let prompt = prompt(1, 5, &[4], false);
    let first = memory.expect(&prompt, now).expect("a breakpoint");
    for _ in 0..10_000 {
        memory.expect(&prompt, now).expect("a breakpoint");
    }
    memory.learn(first.id, 0, 500);
    let last = memory.expect(&prompt, now).expect("a breakpoint");
    assert_eq!(last.tokens, 500);
}

/// Returns a conversation with this number of earlier turns and a breakpoint at its end.
fn turn(turns: usize, last: &str) -> String {
    let said: String = (0..turns)
        .map(|turn| {
            format!(
                r#"{{"role":"user","content":[{{"type":"text","text":"{turn}"}}]}},{{"role":"assistant","content":"so {turn}"}},"#
            )
        })
        .collect();
    format!(
        r#"{{"model":"claude-sonnet-5-5","max_tokens":64,"tools":[{{"name":"a"}}],"system":[{{"type":"text","text":"Be brief.","cache_control":{{"type":"ephemeral","ttl":"1h"}}}}],"messages":[{said}{{"role":"user","content":[{{"type":"text","text":"{last}","cache_control":{{"type":"ephemeral"}}}}]}}]}}"#
    )
}

fn hashes(body: &str) -> Vec<u64> {
    let prefixes = Prefixes::of(body.as_bytes(), "claude-sonnet-5-5", 1).expect("an object");
    prefixes
        .as_slice()
        .iter()
        .map(|prefix| prefix.hash)
        .collect()
}

/// Returns the number of equal prefixes at the start.
fn shared(a: &str, b: &str) -> usize {
    hashes(a)
        .iter()
        .zip(hashes(b))
        .take_while(|(a, b)| **a == *b)
        .count()
}

#[test]
fn moved_breakpoint_keeps_the_hashes() {
    // The last turn of the short one is an earlier turn of the long one, without a breakpoint.
    let (short, long) = (turn(2, "2"), turn(3, "three"));
    assert_eq!(hashes(&short).len(), 7);
    assert_eq!(shared(&short, &long), 7);
    let prefixes = Prefixes::of(long.as_bytes(), "m", 1).expect("an object");
    let kept: Vec<_> = prefixes
        .as_slice()
        .iter()
        .map(|prefix| prefix.keep)
        .collect();
    assert_eq!(kept[1], Some(60 * MINUTE));
    assert_eq!(kept[8], Some(5 * MINUTE));
    assert_eq!(kept.iter().flatten().count(), 2);
}

#[test]
fn change_in_a_block_changes_the_hashes_after_it() {
    let base = turn(2, "x");
    for (from, to, left) in [
        (r#""name":"a""#, r#""name":"b""#, 0),
        ("Be brief.", "Be long.", 1),
        (r#""text":"1""#, r#""text":"!""#, 4),
        ("so 1", "no 1", 5),
        (r#""role":"assistant""#, r#""role":"user""#, 3),
        (r#""max_tokens":64"#, r#""max_tokens":65"#, 7),
        (
            r#""max_tokens":64"#,
            r#""max_tokens":64,"tool_choice":{"type":"any"}"#,
            2,
        ),
        (
            r#""max_tokens":64"#,
            r#""thinking":{"type":"disabled"},"max_tokens":64"#,
            2,
        ),
        (r#"{"type":"text","text":"x""#, r#"{"type":"image""#, 2),
        // Fast requests have a separate cache. "standard" is the default.
        (r#""max_tokens":64"#, r#""max_tokens":64,"speed":"fast""#, 0),
        (
            r#""max_tokens":64"#,
            r#""max_tokens":64,"speed":"standard""#,
            7,
        ),
    ] {
        assert!(base.contains(from), "{from}");
        assert_eq!(
            shared(&base, &base.replace(from, to)),
            left,
            "{from} to {to}"
        );
    }
    // The same block as a tool, in the system prompt and in a message.
    let alone = |body: &str| hashes(body)[0];
    let tool = alone(r#"{"tools":[{"a":1}]}"#);
    let system = alone(r#"{"system":[{"a":1}]}"#);
    let message = alone(r#"{"messages":[{"content":[{"a":1}]}]}"#);
    assert!(tool != system && system != message && message != tool);
    let of = |model, credential| Prefixes::of(base.as_bytes(), model, credential);
    let first = |prefixes: Option<Prefixes>| prefixes.expect("an object").as_slice()[0].hash;
    assert_ne!(first(of("a", 1)), first(of("b", 1)));
    assert_ne!(first(of("a", 1)), first(of("a", 2)));
}

#[test]
fn automatic_caching_sets_a_breakpoint_at_the_end() {
    let body = r#"{"cache_control":{"type":"ephemeral"},"system":"Be brief.","messages":[{"role":"user","content":"Hi"}]}"#;
    let prefixes = Prefixes::of(body.as_bytes(), "m", 1).expect("an object");
    let kept: Vec<_> = prefixes
        .as_slice()
        .iter()
        .map(|prefix| prefix.keep)
        .collect();
    assert_eq!(kept, [None, Some(5 * MINUTE)]);
}

/// The API takes a string for one text block. Turn 2 marks the block, and turn 3 has the same turn
/// as a plain string. `second` is also the first prompt in other words.
#[tokio::test(start_paused = true)]
async fn prefix_in_other_words_is_read_from_the_cache() {
    let long = "meadow tariff \\\"violet\\\" signal\\n".repeat(900);
    let mark = r#","cache_control":{"type":"ephemeral"}"#;
    let body = |before: String| {
        let last =
            format!(r#"{{"role":"user","content":[{{"type":"text","text":"and now?"{mark}}}]}}"#);
        let answer = r#"{"role":"assistant","content":"so"}"#;
        let head = r#"{"model":"claude-opus-5-5","max_tokens":512,"#;
        let (system, messages) = before.split_once('|').expect("two parts");
        let user = format!(r#"{{"role":"user","content":{messages}}}"#);
        RequestBody::from(format!(
            r#"{head}{system}"messages":[{user},{answer},{last}]}}"#
        ))
    };
    let first = |before: String| {
        let head = r#"{"model":"claude-opus-5-5","max_tokens":512,"#;
        let (system, messages) = before.split_once('|').expect("two parts");
        let user = format!(r#"{{"role":"user","content":{messages}}}"#);
        RequestBody::from(format!(r#"{head}{system}"messages":[{user}]}}"#))
    };
    let escaped = long.replace('e', "\\u0065");
    let result = |rest: &str| format!(r#"[{{"type":"tool_result","tool_use_id":"t"{rest}}}]"#);
    for (name, one, other) in [
        (
            "string",
            format!(r#"|[{{"type":"text","text":"{long}"{mark}}}]"#),
            format!(r#"|"{long}""#),
        ),
        (
            "system",
            format!(r#""system":[{{"type":"text","text":"{long}"{mark}}}],|"Hi""#),
            format!(r#""system":"{long}",|"Hi""#),
        ),
        (
            "result",
            format!("|{}", result(&format!(r#","content":"{long}"{mark}"#))),
            format!(
                "|{}",
                result(&format!(
                    r#","content":[{{"type":"text","text":"{long}"}}],"is_error":false"#
                ))
            ),
        ),
        (
            "inner marker",
            format!(
                "|{}",
                result(&format!(
                    r#","content":[{{"type":"text","text":"{long}"{mark}}}]"#
                ))
            ),
            format!("|{}", result(&format!(r#","content":"{long}""#))),
        ),
        (
            "order and null",
            format!(r#"|[{{"type":"text","text":"{long}"{mark}}}]"#),
            format!(r#"|[{{"text":"{long}","citations":null,"type":"text"}}]"#),
        ),
        (
            "escapes",
            format!(r#"|[{{"type":"text","text":"{long}"{mark}}}]"#),
            format!(r#"|[{{"type":"text","text":"{escaped}"}}]"#),
        ),
    ] {
        let estimate = HeuristicCost::default();
        let cold = estimate.estimate(&asked("a", first(one)));
        assert_eq!(cold.cached_tokens, Some(0), "{name}");
        tell(&estimate, &cold, 0, 9_000);
        let warm = estimate.estimate(&asked("a", body(other)));
        assert_eq!(warm.cached_tokens, Some(9_000), "{name}");
        assert!(warm.input_tokens < 100, "{name}: {warm:?}");
    }
}

/// The results of a search are written to the cache as well, but they are no part of the prompt.
#[tokio::test(start_paused = true)]
async fn writes_of_a_server_tool_are_not_expected_to_be_read() {
    let tools = r#""tools":[{"type":"web_search_20260209","name":"web_search"}],"system""#;
    let system = "Be brief. ".repeat(1_200);
    let plain = turn(0, "one").replace("Be brief.", &system);
    let searching = plain.replace(r#""tools":[{"name":"a"}],"system""#, tools);
    assert_ne!(plain, searching);
    let read = |body: &str, written| {
        let estimate = HeuristicCost::default();
        let ask = || asked("a", RequestBody::from(body.to_owned()));
        let cold = estimate.estimate(&ask());
        tell(&estimate, &cold, 0, written);
        estimate.estimate(&ask()).cached_tokens.expect("foreseen")
    };
    assert_eq!(read(&plain, 3_000), 3_000);
    assert_eq!(read(&searching, 3_000), 3_000);
    // The prompt includes the definition that the server has of its tool.
    assert!(read(&searching, 60_000) < 5_000);
}

fn asked(key: &str, body: RequestBody) -> Request<RequestBody> {
    let request = Request::post("/v1/messages").header("x-api-key", key);
    request.body(body).expect("a request")
}

fn tell(estimate: &HeuristicCost, cost: &Cost, read: u64, written: u64) {
    let mut usage = Usage::default();
    usage.cache_read_input_tokens = Some(read);
    usage.cache_creation_input_tokens = Some(written);
    PendingEstimate::of(estimate, cost)
        .expect("it wants to know")
        .give(&usage, Instant::now());
}

#[tokio::test(start_paused = true)]
async fn estimate_excludes_cached_tokens() {
    let system = "Be brief. ".repeat(2_200);
    let body = |said: &str| RequestBody::from(turn(0, said).replace("Be brief.", &system));
    let estimate = HeuristicCost::default();
    let cold = estimate.estimate(&asked("a", body("one")));
    assert!(cold.input_tokens > 8_000, "{cold:?}");
    assert_eq!(cold.cached_tokens, Some(0));
    // Clones share the memory.
    tell(&estimate.clone(), &cold, 0, 8_021);
    let warm = estimate.estimate(&asked("a", body("two")));
    assert!(warm.input_tokens < 60, "{warm:?}");
    assert!((7_900..8_021).contains(&warm.cached_tokens.expect("foreseen")));
    let elsewhere = estimate.estimate(&asked("b", body("two")));
    assert_eq!(elsewhere.input_tokens, cold.input_tokens);
    tokio::time::advance(61 * MINUTE).await;
    let late = estimate.estimate(&asked("a", body("two")));
    assert_eq!(late.input_tokens, cold.input_tokens);
    // The cached tokens are subtracted from a counted input.
    tell(&estimate, &late, 0, 8_000);
    let warm = estimate
        .estimate(&asked("a", body("two")))
        .with_counted_input(8_100);
    assert_eq!(warm.input_tokens, 100);
}

/// The paths of some clouds name the model, and the body does not.
#[tokio::test(start_paused = true)]
async fn estimate_reads_the_model_in_the_path() {
    let text = turn(3, &"word ".repeat(2_000));
    let estimate = |path: &str, body: &str| {
        let request = Request::post(path).body(RequestBody::from(body.to_owned()));
        HeuristicCost::default().estimate(&request.expect("a request"))
    };
    for model in ["claude-sonnet-5-5", "claude-opus-4-5"] {
        let body = text.replace("claude-sonnet-5-5", model);
        let expected = estimate("/v1/messages", &body);
        assert!(expected.input_tokens > 2_000 && expected.cached_tokens == Some(0));
        let bare = body.replace(&format!(r#""model":"{model}","#), "");
        assert_ne!(bare, body);
        assert_eq!(estimate("/v1/messages", &bare), Cost::default());
        for path in [
            format!("/model/us.anthropic.{model}-v1%3A0/invoke"),
            format!("/publishers/anthropic/models/{model}:rawPredict"),
        ] {
            let cost = estimate(&path, &bare);
            assert_eq!(cost.input_tokens, expected.input_tokens, "{path}");
            assert_eq!(cost.cached_tokens, Some(0), "{path}");
        }
    }
}

/// The data of an image does not count as text.
#[tokio::test(start_paused = true)]
async fn image_is_estimated_by_its_size_with_and_without_cache() {
    let image = |bytes| {
        let data = "A".repeat(bytes);
        format!(
            r#"{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{data}"}},"cache_control":{{"type":"ephemeral"}}}}"#
        )
    };
    let body = |bytes, said: &str| {
        let text = format!(r#"{{"type":"text","text":"{said}"}}"#);
        let content = [image(bytes), text].join(",");
        let message = format!(r#"{{"role":"user","content":[{content}]}}"#);
        let body = format!(r#"{{"model":"claude-sonnet-5-5","messages":[{message}]}}"#);
        asked("a", RequestBody::from(body))
    };
    let estimate = HeuristicCost::default();
    let cold = estimate.estimate(&body(5_000_000, "one"));
    assert!((4_000..6_000).contains(&cold.input_tokens), "{cold:?}");
    tell(&estimate, &cold, 0, 1_600);
    let said = "two ".repeat(2_500);
    let warm = estimate.estimate(&body(5_000_000, &said));
    assert!((3_900..4_200).contains(&warm.input_tokens), "{warm:?}");
    assert!(warm.cached_tokens > Some(1_500), "{warm:?}");
}

#[tokio::test(start_paused = true)]
async fn request_without_caching_has_no_prediction() {
    let estimate = HeuristicCost::default();
    let plain = turn(1, "one").replace("cache_control", "x");
    let cost = estimate.estimate(&asked("a", RequestBody::from(plain)));
    assert_eq!((cost.cached_tokens, cost.estimate_id), (None, None));
    assert!(PendingEstimate::of(&estimate, &cost).is_none());
    let off = estimate.without_cache_reads();
    let cost = off.estimate(&asked("a", RequestBody::from(turn(1, "one"))));
    assert_eq!(cost.cached_tokens, None);
}

#[tokio::test(start_paused = true)]
async fn dropped_estimate_is_discarded() {
    let estimate = HeuristicCost::default();
    let body = || RequestBody::from(turn(0, "one"));
    let long = estimate.estimate(&asked("a", body()));
    for _ in 0..20_000 {
        let dropped = estimate.estimate(&asked("a", body()));
        drop(PendingEstimate::of(&estimate, &dropped));
    }
    // If the dropped estimates had been kept, the first would have been discarded.
    tell(&estimate, &long, 0, 1_000);
    let next = estimate.estimate(&asked("a", body()));
    assert_eq!(next.cached_tokens, Some(1_000));
}
