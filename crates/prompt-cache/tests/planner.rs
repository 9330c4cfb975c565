//! The planner without futures.

use std::time::Duration;

use tokio::time::Instant;
use tower_claude_prompt_cache::{
    Boundary, CacheRules, CacheUsage, GateState, MissCause, Outline, OutlineBlock, Planner,
    PlannerOptions, Started,
};
use tower_claude_wire::{BlockKind, CacheTtl, ModelCatalog, PromptPart, RateCard};

const SECOND: Duration = Duration::from_secs(1);

fn rules() -> CacheRules {
    CacheRules::new(1_000, RateCard::new(5_000, 25_000))
}

/// Returns an outline of blocks: the part, the message, the number of the content, and the tokens.
fn outline(blocks: &[(PromptPart, usize, u64, u64)]) -> Outline {
    let (mut prefix, mut tokens) = (7_u64, 0);
    let blocks = blocks.iter().map(|(part, message, own, size)| {
        prefix = prefix.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17) ^ own;
        tokens += size;
        OutlineBlock {
            part: *part,
            kind: BlockKind::Text,
            message: *message,
            own: *own,
            prefix,
            tokens,
            caller_ttl: None,
            takes_marker: true,
            boundary: None,
            range: 0..0,
        }
    });
    Outline::new(1, blocks.collect())
}

/// A question, after a document.
fn question(document: u64, question: u64) -> Outline {
    outline(&[
        (PromptPart::Messages, 0, document, 5_000),
        (PromptPart::Messages, 0, question, 100),
    ])
}

/// Starts a request that the planner follows.
fn start(planner: &mut Planner, mut outline: Outline, now: Instant) -> (u64, Started) {
    let started = planner.start(&mut outline, &rules(), now);
    (started.id.expect("it is followed"), started)
}

fn usage(plain: u64, read: u64, written: u64) -> CacheUsage {
    CacheUsage {
        plain,
        read,
        written_5m: written,
        ..CacheUsage::default()
    }
}

/// Asks questions about a document until its requests are marked.
fn learn(planner: &mut Planner, mut now: Instant) -> Instant {
    for number in 0..6 {
        let (id, started) = start(planner, question(1, number), now);
        planner.on_first_content(id, now + SECOND);
        let usage = match (started.plan.markers.is_empty(), number) {
            (true, _) => usage(5_100, 0, 0),
            (false, 1) => usage(100, 0, 5_000),
            (false, _) => usage(100, 5_000, 0),
        };
        planner.on_usage(id, &usage, now);
        now += 10 * SECOND;
    }
    now
}

#[test]
fn class_that_loses_money_is_switched_off_for_an_hour() {
    let mut planner = Planner::new(PlannerOptions::default());
    let mut now = learn(&mut planner, Instant::now());
    let mut off = None;
    let mut requests = 0;
    // The server reads the document, but its tools write more than that saves.
    while off.is_none() {
        let question = question(1, 100 + requests).with_server_tools();
        let (id, started) = start(&mut planner, question, now);
        assert!(!started.plan.markers.is_empty(), "{requests}");
        planner.on_first_content(id, now);
        let learned = planner
            .on_usage(id, &usage(100, 5_000, 40_000), now)
            .expect("marked");
        off = learned.switched_off;
        requests += 1;
        now += 10 * SECOND;
    }
    let (boundary, saved) = off.expect("it ended the loop");
    assert_eq!(boundary, Boundary::Document);
    assert!(saved.is_negative());
    assert!((90..=100).contains(&requests), "{requests}");
    assert!(planner.classes(now).iter().any(|class| class.is_off));
    let (_, started) = start(&mut planner, question(1, 900), now);
    assert_eq!(started.plan.markers, []);
    for number in 0..3 {
        let (_, started) = start(
            &mut planner,
            question(1, 901 + number),
            now + 3_700 * SECOND,
        );
        assert_eq!(started.plan.markers.len(), 1);
    }
}

#[test]
fn misses_in_a_row_end_the_markers_of_a_class() {
    let mut planner = Planner::new(PlannerOptions::default());
    let mut now = learn(&mut planner, Instant::now());
    let mut marked = 0;
    for number in 0..60 {
        let (id, started) = start(&mut planner, question(1, 100 + number), now);
        marked += usize::from(!started.plan.markers.is_empty());
        planner.on_first_content(id, now);
        let usage = match started.plan.markers.is_empty() {
            true => usage(5_100, 0, 0),
            false => usage(100, 0, 5_000),
        };
        planner.on_usage(id, &usage, now);
        now += 10 * SECOND;
    }
    assert!(marked < 20, "{marked} of 60");
}

#[test]
fn follower_waits_for_the_first_content_and_no_longer_than_the_limit() {
    let mut planner = Planner::new(PlannerOptions::default());
    let now = learn(&mut planner, Instant::now()) + 600 * SECOND;
    let (leader, started) = start(&mut planner, question(2, 1), now);
    assert_eq!(started.gate, GateState::Pass);
    assert_eq!(started.plan.markers.len(), 1);
    let (first, started) = start(&mut planner, question(2, 2), now);
    let until = now + 3 * SECOND;
    assert_eq!(started.gate, GateState::Follow { until });
    let (second, _) = start(&mut planner, question(2, 3), now + SECOND);
    assert_eq!(planner.waiting(), 2);
    // The first one gives up, the second one is released.
    assert_eq!(planner.poll_gate(first, until), GateState::Pass);
    assert_eq!(planner.waiting(), 1);
    let released = planner.on_first_content(leader, until + SECOND / 2);
    assert_eq!(released, [second]);
    assert_eq!(
        planner.poll_gate(second, until + SECOND / 2),
        GateState::Pass
    );
    assert_eq!(planner.waiting(), 0);
}

#[test]
fn follower_of_a_lost_leader_leads() {
    let mut planner = Planner::new(PlannerOptions::default());
    let now = learn(&mut planner, Instant::now()) + 600 * SECOND;
    let (leader, _) = start(&mut planner, question(2, 1), now);
    let (first, _) = start(&mut planner, question(2, 2), now);
    let (second, _) = start(&mut planner, question(2, 3), now);
    let mut released = planner.on_dropped(leader, now);
    released.sort_unstable();
    assert_eq!(released, [first, second]);
    assert_eq!(planner.poll_gate(first, now), GateState::Pass);
    assert!(matches!(
        planner.poll_gate(second, now),
        GateState::Follow { .. }
    ));
    assert_eq!(planner.on_first_content(first, now + SECOND), [second]);
}

#[test]
fn followers_that_miss_make_later_ones_wait_a_little_longer() {
    let mut planner = Planner::new(PlannerOptions::default());
    let mut now = learn(&mut planner, Instant::now()) + 600 * SECOND;
    for document in 10..14 {
        let (leader, _) = start(&mut planner, question(document, 1), now);
        let (follower, _) = start(&mut planner, question(document, 2), now);
        now += SECOND;
        planner.on_first_content(leader, now);
        planner.on_usage(leader, &usage(100, 0, 5_000), now);
        let gate = planner.poll_gate(follower, now);
        match document {
            10 => assert_eq!(gate, GateState::Pass),
            _ => assert!(
                matches!(gate, GateState::Follow { until } if until > now),
                "{document}"
            ),
        }
        now += SECOND;
        assert_eq!(planner.poll_gate(follower, now), GateState::Pass);
        planner.on_first_content(follower, now);
        let learned = planner.on_usage(follower, &usage(100, 0, 5_000), now);
        assert_eq!(
            learned.expect("it was marked").miss,
            Some(MissCause::Server)
        );
        now += 30 * SECOND;
    }
}

#[test]
fn markers_are_at_most_four_and_lifetimes_never_grow() {
    let mut planner = Planner::new(PlannerOptions::default());
    let mut now = Instant::now();
    let mut most = 0;
    for conversation in 0..8 {
        let mut blocks = vec![
            (PromptPart::Tools, 0, 1, 1_500),
            (PromptPart::System, 0, 2, 1_500),
        ];
        blocks.extend((0..4).map(|at| (PromptPart::Messages, 0, 10 + at, 1_500)));
        for turn in 0..12 {
            let message = 2 * turn as usize + 1;
            blocks.push((
                PromptPart::Messages,
                message,
                1_000 * conversation + turn,
                400,
            ));
            blocks.push((PromptPart::Messages, message + 1, 500_000 + turn, 400));
            let mut outline = outline(&blocks);
            let started = planner.start(&mut outline, &rules(), now);
            let markers = &started.plan.markers;
            most = most.max(markers.len());
            assert!(markers.len() <= 4);
            assert!(markers.is_sorted_by(|one, other| one.block < other.block));
            let ttls: Vec<_> = markers.iter().rev().map(|marker| marker.ttl).collect();
            assert!(ttls.is_sorted(), "{ttls:?}");
            if let Some(id) = started.id {
                planner.on_first_content(id, now);
                planner.on_dropped(id, now);
            }
            now += SECOND * if turn % 3 == 0 { 700 } else { 20 };
        }
    }
    assert_eq!(most, 4);
}

#[test]
fn prompt_below_the_minimum_is_not_followed() {
    let mut planner = Planner::new(PlannerOptions::default());
    let mut short = outline(&[(PromptPart::Messages, 0, 1, 999)]);
    let started = planner.start(&mut short, &rules(), Instant::now());
    assert_eq!(started.id, None);
    assert_eq!(planner.known_prefixes(), 0);
}

#[test]
fn cached_nothing_is_too_short_and_costs_nothing() {
    let mut planner = Planner::new(PlannerOptions::default());
    let now = learn(&mut planner, Instant::now());
    let (id, started) = start(&mut planner, question(1, 50), now);
    assert!(!started.plan.markers.is_empty());
    planner.on_first_content(id, now);
    let learned = planner
        .on_usage(id, &usage(5_100, 0, 0), now)
        .expect("it was marked");
    assert_eq!(learned.miss, Some(MissCause::TooShort));
    assert_eq!(learned.saved, tower_claude_wire::Money::ZERO);
}

#[test]
fn ends_of_unknown_requests_have_no_effect() {
    let mut planner = Planner::new(PlannerOptions::default());
    let now = Instant::now();
    assert_eq!(planner.poll_gate(9, now), GateState::Pass);
    assert!(planner.on_first_content(9, now).is_empty());
    assert_eq!(planner.on_usage(9, &usage(1, 1, 1), now), None);
    assert!(planner.on_dropped(9, now).is_empty());
}

/// They all started with the same old correction of their estimates.
#[test]
fn requests_that_end_together_correct_the_estimates_once() {
    let mut planner = Planner::new(PlannerOptions::default());
    let now = Instant::now();
    let started: Vec<u64> = (0..40)
        .map(|number| start(&mut planner, question(1, number), now).0)
        .collect();
    for id in started {
        planner.on_first_content(id, now);
        planner.on_usage(id, &usage(10_200, 0, 0), now);
    }
    // The prompts have twice the tokens of their estimates.
    let mut follows = |tokens| {
        let mut short = outline(&[(PromptPart::Messages, 0, 9, tokens)]);
        planner.start(&mut short, &rules(), now).id.is_some()
    };
    assert!(follows(600));
    assert!(!follows(400));
}

#[test]
fn request_that_does_not_wait_leaves_the_prefix_to_its_writer() {
    let mut options = PlannerOptions::default();
    options.max_hold = Duration::ZERO;
    let mut planner = Planner::new(options);
    let now = learn(&mut planner, Instant::now());
    let (writer, started) = start(&mut planner, question(2, 1), now);
    assert_eq!(started.plan.markers.len(), 1);
    // What is not readable yet would be written twice.
    let (_, started) = start(&mut planner, question(2, 2), now);
    assert_eq!(
        (started.gate, started.plan.markers),
        (GateState::Pass, vec![])
    );
    // What is cached is read all the same.
    let (_, started) = start(&mut planner, question(1, 99), now);
    assert_eq!(started.plan.markers.len(), 1);
    planner.on_first_content(writer, now + SECOND);
    let (_, started) = start(&mut planner, question(2, 3), now + SECOND);
    assert_eq!(started.plan.markers.len(), 1);
}

#[test]
fn class_is_not_judged_before_its_reads_can_come() {
    let mut planner = Planner::new(PlannerOptions::default());
    let mut now = Instant::now();
    let mut ask = |planner: &mut Planner, document, number, usage: CacheUsage| {
        let (id, started) = start(planner, question(document, number), now);
        planner.on_first_content(id, now);
        let learned = planner.on_usage(id, &usage, now);
        now += SECOND;
        if document == 39 {
            // Documents come again after twenty minutes.
            now += 1_200 * SECOND;
        }
        let ttls: Vec<CacheTtl> = started.plan.markers.iter().map(|it| it.ttl).collect();
        (ttls, learned.and_then(|learned| learned.switched_off))
    };
    for round in 0..2 {
        for document in 0..40 {
            ask(
                &mut planner,
                document,
                100 * document + round,
                usage(5_100, 0, 0),
            );
        }
    }
    let written = CacheUsage {
        plain: 100,
        written_1h: 5_000,
        ..CacheUsage::default()
    };
    for document in 1_000..1_200 {
        let seen = ask(&mut planner, document, 100 * document, written);
        assert_eq!(seen, (vec![CacheTtl::OneHour], None), "{document}");
    }
}

#[test]
fn longest_hold_is_limited() {
    let mut options = PlannerOptions::default();
    options.max_hold = Duration::MAX;
    let mut planner = Planner::new(options);
    let now = learn(&mut planner, Instant::now());
    let (writer, _) = start(&mut planner, question(2, 1), now);
    let (follower, started) = start(&mut planner, question(2, 2), now);
    assert!(matches!(started.gate, GateState::Follow { .. }));
    assert_eq!(planner.on_dropped(writer, now), [follower]);
}

/// The server has the prefix, and would read it. A gate that never opens would cost time.
#[test]
fn prompt_whose_blocks_all_have_breakpoints_waits_for_its_first_writer_only() {
    let mut planner = Planner::new(PlannerOptions::default());
    let marked = |message| {
        let blocks = [
            (PromptPart::System, 0, 1, 5_000),
            (PromptPart::Messages, 0, message, 2_000),
        ];
        let mut blocks = outline(&blocks).blocks().to_vec();
        for block in &mut blocks {
            block.caller_ttl = Some(CacheTtl::FiveMinutes);
            block.takes_marker = false;
            block.boundary = None;
        }
        Outline::new(1, blocks)
    };
    let now = Instant::now();
    let (writer, started) = start(&mut planner, marked(2), now);
    assert_eq!(started.gate, GateState::Pass);
    let (follower, started) = start(&mut planner, marked(3), now);
    assert!(matches!(started.gate, GateState::Follow { .. }));
    assert_eq!(planner.on_first_content(writer, now + SECOND), [follower]);
    assert_eq!(planner.poll_gate(follower, now + SECOND), GateState::Pass);
    for message in 4..8 {
        let (_, started) = start(&mut planner, marked(message), now + SECOND);
        assert_eq!(started.gate, GateState::Pass, "{message}");
    }
}

#[test]
fn followers_of_a_leader_that_hangs_are_released_by_another_writer() {
    let mut planner = Planner::new(PlannerOptions::default());
    let now = learn(&mut planner, Instant::now());
    let (_hangs, _) = start(&mut planner, question(2, 1), now);
    let (second, _) = start(&mut planner, question(2, 2), now);
    let late = now + 3 * SECOND;
    let (third, started) = start(&mut planner, question(2, 3), late - SECOND);
    assert!(matches!(started.gate, GateState::Follow { .. }));
    assert_eq!(planner.poll_gate(second, late), GateState::Pass);
    let late = late + SECOND / 2;
    assert_eq!(planner.on_first_content(second, late), [third]);
    assert_eq!(planner.poll_gate(third, late), GateState::Pass);
    assert_eq!(planner.waiting(), 0);
}

#[test]
fn text_that_mentions_breakpoints_does_not_change_the_prefixes_before_it() {
    let outline = |question: &str| {
        let body = format!(
            r#"{{"system":"Rules","messages":[{{"role":"user","content":[
                {{"type":"text","text":"A document"}},{{"type":"text","text":"{question}"}}]}}]}}"#
        );
        let model = ModelCatalog::builtin().lookup("claude-sonnet-5-5");
        Outline::of(body.as_bytes(), &model, 1, true).expect("a prompt")
    };
    let plain = outline("Why?");
    let mention = outline(r#"What is \"cache_control\":{\"type\":\"ephemeral\"}, or \u0061?"#);
    for at in 0..2 {
        assert_eq!(mention.blocks()[at].prefix, plain.blocks()[at].prefix);
        assert!(mention.blocks()[at].takes_marker);
    }
}

#[test]
fn cheap_prompt_does_not_wait_for_another_write() {
    let mut planner = Planner::new(PlannerOptions::default());
    let now = learn(&mut planner, Instant::now()) + 600 * SECOND;
    let cheap = CacheRules::new(1_000, RateCard::new(100, 500));
    let mut start = |number| planner.start(&mut question(2, number), &cheap, now).gate;
    assert_eq!([start(1), start(2)], [GateState::Pass, GateState::Pass]);
}

#[test]
fn cached_prefix_beyond_the_look_back_is_not_expected() {
    for (between, expected) in [(15, true), (25, false)] {
        let mut planner = Planner::new(PlannerOptions::default());
        let now = Instant::now();
        let turn = |length: usize| {
            let blocks = (0..length).map(|at| (PromptPart::Messages, at, 7 + at as u64, 2_000));
            let mut blocks: Vec<_> = blocks.collect();
            blocks.insert(0, (PromptPart::System, 0, 5, 2_000));
            blocks
        };
        // The caller marks the last block only.
        let marked = |length| {
            let blocks = outline(&turn(length));
            let mut blocks = blocks.blocks().to_vec();
            blocks.last_mut().expect("a block").caller_ttl = Some(CacheTtl::FiveMinutes);
            Outline::new(1, blocks)
        };
        let (id, _) = start(&mut planner, marked(2), now);
        planner.on_first_content(id, now);
        planner.on_usage(id, &usage(0, 0, 6_000), now);
        let (id, _) = start(&mut planner, marked(2 + between), now + SECOND);
        planner.on_first_content(id, now + SECOND);
        let learned = planner.on_usage(id, &usage(0, 0, 50_000), now + SECOND);
        let miss = learned.expect("it was marked").miss;
        assert_eq!(
            miss == Some(MissCause::Server),
            expected,
            "{between}: {miss:?}"
        );
    }
}
