//! The properties of the choice of targets, without a clock.

use std::{collections::HashMap, num::NonZeroU32, sync::Arc, time::Duration};

use proptest::prelude::*;
use tokio::time::Instant;
use tower_claude_core::{Class, Kind, driver::Reroute, toolkit::Prefix};
use tower_claude_spread::{
    Binding, Choice, Conversation, Lease, Reason, Skip, SpreadOptions, SpreadRequest, SpreadTarget,
    Spreader, TargetLimits, Tried,
};
use tower_claude_wire::{Money, RateCard, Usage, cloud::Target};

const SECOND: Duration = Duration::from_secs(1);
const FIVE_MINUTES: Duration = Duration::from_secs(300);

fn target(name: &str, account: &str) -> SpreadTarget {
    let target = Target::claude_api().with_name(name).expect("a name");
    SpreadTarget::new(target.with_account(account).expect("an account"))
}

fn three() -> Vec<SpreadTarget> {
    ["a", "b", "c"].map(|name| target(name, name)).to_vec()
}

fn spreader(targets: Vec<SpreadTarget>) -> Spreader {
    Spreader::new(SpreadOptions::default(), targets)
}

/// A prompt of blocks of 1,000 tokens each. The conversation `key` has `turns` of them.
fn prompt(key: u64, turns: u64) -> Conversation {
    let prefix = |turn: u64| Prefix {
        hash: key << 20 | turn,
        bytes: (turn + 1) * 4_000,
        keep: (turn + 1 == turns).then_some(FIVE_MINUTES),
        joins: false,
    };
    Conversation::new(key, (0..turns).map(prefix).collect(), Vec::new())
}

/// The same with an answer of thinking after each earlier block.
fn with_thinking(key: u64, turns: u64) -> Conversation {
    let prefixes = prompt(key, turns).prefixes().to_vec();
    let thinking = (0..turns - 1).rev().map(|turn| key << 20 | turn);
    Conversation::new(key, prefixes, thinking.collect())
}

fn request(conversation: Conversation) -> SpreadRequest {
    let tokens = conversation.prefixes().len() as u64 * 1_000;
    SpreadRequest::new("model", RateCard::new(3_000, 15_000), tokens, conversation)
}

fn bound(conversation: Conversation) -> SpreadRequest {
    let mut request = request(conversation);
    request.binds_account = true;
    request
}

fn choose(spreader: &mut Spreader, request: &SpreadRequest, now: Instant) -> Lease {
    let tried = vec![Tried::No; spreader.len()];
    match choose_after(spreader, request, &tried, now) {
        Choice::Send(lease) => lease,
        other => panic!("{other:?}"),
    }
}

fn choose_after(
    spreader: &mut Spreader,
    request: &SpreadRequest,
    tried: &[Tried],
    now: Instant,
) -> Choice {
    spreader.choose(request, tried, &mut Vec::new(), now + 60 * SECOND, now)
}

fn usage(plain: u64, read: u64, written: u64) -> Usage {
    let body = format!(
        r#"{{"input_tokens":{plain},"cache_read_input_tokens":{read},"cache_creation_input_tokens":{written},"output_tokens":100}}"#
    );
    Usage::from_usage_object(body.as_bytes()).expect("usage")
}

/// Answers a request: what is cached is read, and the rest of the prompt is written.
fn answer(spreader: &mut Spreader, request: &SpreadRequest, lease: Lease, now: Instant) {
    spreader.on_success(&lease, now);
    let read = lease.expected_reads();
    let usage = usage(0, read, request.input_tokens - read);
    spreader.on_end(lease, Some(&usage), now);
}

#[test]
fn turns_stay_where_the_cache_is_for_as_long_as_it_lives() {
    let mut spreader = spreader(three());
    let mut now = Instant::now();
    let first = request(prompt(7, 20));
    let lease = choose(&mut spreader, &first, now);
    // Another target than the one of the hash.
    let (winner, other) = (lease.target(), (lease.target() + 1) % 3);
    spreader.release(lease, now);
    let mut tried = [Tried::Excluded(Skip::Residency); 3];
    tried[other] = Tried::No;
    let Choice::Send(lease) = choose_after(&mut spreader, &first, &tried, now) else {
        panic!("the target is open");
    };
    answer(&mut spreader, &first, lease, now);
    for turns in 21..25 {
        now += 60 * SECOND;
        let next = request(prompt(7, turns));
        let lease = choose(&mut spreader, &next, now);
        assert_eq!((lease.target(), lease.reason()), (other, Reason::Cache));
        assert_eq!(lease.expected_reads(), (turns - 1) * 1_000);
        answer(&mut spreader, &next, lease, now);
    }
    now += FIVE_MINUTES;
    let lease = choose(&mut spreader, &request(prompt(7, 25)), now);
    assert_eq!((lease.target(), lease.reason()), (winner, Reason::Hash));
}

#[test]
fn conversation_gives_way_when_waiting_costs_more_than_the_cache() {
    let limit = NonZeroU32::new(60_000).expect("not zero");
    let limits = TargetLimits::learned().with_input_tokens(limit);
    let all = three().into_iter().map(|it| it.with_limits(limits));
    // A second costs a cent. To write 20,000 tokens anew costs seven cents.
    let mut options = SpreadOptions::default();
    options.second_price = Money::from_micros(10_000);
    let mut spreader = Spreader::new(options, all.collect());
    let now = Instant::now();
    let first = request(prompt(7, 20));
    let lease = choose(&mut spreader, &first, now);
    let home = lease.target();
    answer(&mut spreader, &first, lease, now);
    let fill = |spreader: &mut Spreader, tokens: u64| {
        let other = request(prompt(1_000 + tokens, tokens / 1_000));
        let mut tried = [Tried::Excluded(Skip::Residency); 3];
        tried[home] = Tried::No;
        let choice = choose_after(spreader, &other, &tried, now);
        assert!(matches!(choice, Choice::Send(_)));
    };
    // 40,000 tokens are left, and the turn needs a thousand.
    fill(&mut spreader, 40_000);
    let lease = choose(&mut spreader, &request(prompt(7, 21)), now);
    assert_eq!(lease.target(), home, "a wait of a second");
    spreader.release(lease, now);
    fill(&mut spreader, 30_000);
    let lease = choose(&mut spreader, &request(prompt(7, 21)), now);
    assert_ne!(lease.target(), home, "a wait of half a minute");
}

#[test]
fn new_conversations_are_divided_by_weight() {
    let weight = NonZeroU32::new(3).expect("not zero");
    let mut targets = three();
    targets[1] = targets[1].clone().with_weight(weight);
    let mut spreader = spreader(targets);
    let now = Instant::now();
    let mut counts = [0_u32; 3];
    for key in 0..5_000 {
        let lease = choose(&mut spreader, &request(prompt(key, 2)), now);
        counts[lease.target()] += 1;
        spreader.release(lease, now);
    }
    for (count, share) in counts.into_iter().zip([0.2, 0.6, 0.2]) {
        let found = f64::from(count) / 5_000.0;
        assert!((found - share).abs() < 0.03, "{counts:?}");
    }
}

#[test]
fn lost_target_moves_its_own_conversations_only() {
    let mut all = spreader(three());
    let mut fewer = spreader(three().split_off(1));
    let now = Instant::now();
    for key in 0..1_000 {
        let request = request(prompt(key, 2));
        let before = choose(&mut all, &request, now);
        let after = choose(&mut fewer, &request, now);
        if before.target() > 0 {
            assert_eq!(before.target(), after.target() + 1);
        }
        all.release(before, now);
        fewer.release(after, now);
    }
}

#[test]
fn cheaper_target_gets_the_new_conversations() {
    let mut targets = three();
    targets[2] = targets[2].clone().with_price_percent(90);
    let mut spreader = spreader(targets);
    let now = Instant::now();
    for key in 0..100 {
        let lease = choose(&mut spreader, &request(prompt(key, 2)), now);
        assert_eq!((lease.target(), lease.reason()), (2, Reason::Cost));
        spreader.release(lease, now);
    }
}

#[test]
fn held_max_tokens_are_given_back_at_the_end() {
    let limit = NonZeroU32::new(100_000).expect("not zero");
    let limits = TargetLimits::learned().with_all_tokens(limit);
    let limited = target("a", "a")
        .with_limits(limits)
        .with_held_max_tokens(true);
    let mut spreader = spreader(vec![limited, target("b", "b").with_price_percent(101)]);
    let now = Instant::now();
    let mut request = request(prompt(7, 2));
    request.max_tokens = Some(64_000);
    let key =
        |spreader: &mut Spreader, request: &SpreadRequest| choose(spreader, request, now).target();
    let conversations = |wanted: usize, spreader: &mut Spreader| {
        // The key decides among equals, so find one that the limited target wins.
        (0..100).find(|key| {
            let mut request = request.clone();
            request.conversation = prompt(*key, 2);
            let lease = choose(spreader, &request, now);
            let target = lease.target();
            spreader.release(lease, now);
            target == wanted
        })
    };
    let number = conversations(0, &mut spreader).expect("one of a hundred");
    request.conversation = prompt(number, 2);
    let lease = choose(&mut spreader, &request, now);
    assert_eq!(lease.target(), 0);
    // The second one would wait for the first one's `max_tokens`.
    assert_eq!(key(&mut spreader, &request), 1);
    answer(&mut spreader, &request, lease, now);
    assert_eq!(key(&mut spreader, &request), 0);
}

#[test]
fn target_that_never_answered_is_tried() {
    let mut spreader = spreader(three());
    let now = Instant::now();
    let mut seen = [false; 3];
    for key in 0..50 {
        let lease = choose(&mut spreader, &request(prompt(key, 2)), now);
        seen[lease.target()] = true;
        spreader.on_first_content(&lease, now + SECOND);
        spreader.release(lease, now);
    }
    assert_eq!(seen, [true; 3]);
}

#[test]
fn thinking_of_an_unknown_account_stays_at_the_one_that_is_assumed() {
    let now = Instant::now();
    for key in 0..100 {
        // Two processes that know nothing assume the same, although one has had failures.
        let turn = bound(with_thinking(key, 4));
        let mut here = spreader(three());
        let lease = choose(&mut here, &turn, now);
        let Binding::Assumed(account) = lease.binding().clone() else {
            panic!("{:?}", lease.binding());
        };
        let mut there = spreader(three());
        for number in 0..9 {
            let other = choose(&mut there, &request(prompt(1_000 + number, 2)), now);
            there.on_failure(other, &Class::new(Kind::Overloaded), false, now, 0.5);
        }
        let other = choose(&mut there, &turn, now);
        assert_eq!(other.binding(), &Binding::Assumed(account.clone()));
        // It is remembered from then on.
        answer(&mut here, &turn, lease, now);
        let next = bound(with_thinking(key, 5));
        let lease = choose(&mut here, &next, now);
        assert_eq!(lease.binding(), &Binding::Known(account));
    }
}

#[test]
fn failure_of_an_assumed_account_does_not_move_the_thinking() {
    let now = Instant::now();
    let refused = Skip::Rejected(Kind::Overloaded);
    for skip in [Skip::Failed(Kind::Unauthorized), refused] {
        let turn = bound(with_thinking(7, 4));
        let mut spreader = spreader(three());
        let lease = choose(&mut spreader, &turn, now);
        let mut tried = [Tried::No; 3];
        tried[lease.target()] = Tried::Excluded(skip);
        spreader.release(lease, now);
        let choice = choose_after(&mut spreader, &turn, &tried, now);
        assert!(
            matches!(choice, Choice::None { .. }),
            "{skip:?}: {choice:?}"
        );
        assert_eq!(spreader.next(&turn, &tried, now), Reroute::Nowhere);
    }
}

#[test]
fn account_without_the_model_is_not_assumed() {
    let now = Instant::now();
    let turn = bound(with_thinking(7, 4));
    let mut spreader = spreader(three());
    let lease = choose(&mut spreader, &turn, now);
    let first = lease.target();
    let mut tried = [Tried::No; 3];
    tried[first] = Tried::Excluded(Skip::Failed(Kind::NotFound));
    spreader.release(lease, now);
    let Choice::Send(lease) = choose_after(&mut spreader, &turn, &tried, now) else {
        panic!("another account may have made the thinking");
    };
    assert_ne!(lease.target(), first);
}

#[test]
fn account_that_the_caller_names_is_kept_to() {
    let mut spreader = spreader(three());
    let now = Instant::now();
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        let mut turn = bound(with_thinking(7, 4));
        turn.account = Some(name.into());
        let lease = choose(&mut spreader, &turn, now);
        assert_eq!(lease.target(), index);
        spreader.release(lease, now);
    }
    let mut turn = bound(with_thinking(7, 4));
    turn.account = Some("mistyped".into());
    let choice = choose_after(&mut spreader, &turn, &[Tried::No; 3], now);
    assert!(matches!(choice, Choice::None { retry_after: None }));
}

#[test]
fn thinking_that_may_be_lost_binds_nothing() {
    let mut options = SpreadOptions::default();
    options.may_lose_thinking = true;
    let mut spreader = Spreader::new(options, three());
    let turn = bound(with_thinking(7, 4));
    let lease = choose(&mut spreader, &turn, Instant::now());
    assert_eq!(lease.binding(), &Binding::Free);
}

#[test]
fn model_without_bound_thinking_respects_that_of_another() {
    let mut spreader = spreader(three());
    let now = Instant::now();
    let first = bound(with_thinking(7, 1));
    let lease = choose(&mut spreader, &first, now);
    let account: Arc<str> = ["a", "b", "c"][lease.target()].into();
    answer(&mut spreader, &first, lease, now);
    // Its own thinking would not be bound, but it reads that of the earlier model.
    let next = request(with_thinking(7, 2));
    let lease = choose(&mut spreader, &next, now);
    assert_eq!(lease.binding(), &Binding::Known(account));
    let other = request(with_thinking(8, 2));
    let lease = choose(&mut spreader, &other, now);
    assert_eq!(lease.binding(), &Binding::Free);
}

#[test]
fn all_targets_paused_by_the_server_are_waited_for() {
    let mut spreader = spreader(three());
    let now = Instant::now();
    let turn = request(prompt(7, 2));
    for seconds in [40, 20, 30] {
        let lease = choose(&mut spreader, &turn, now);
        let class = Class::new(Kind::RateLimited);
        let class = class.with_retry_after(Some(seconds * SECOND));
        spreader.on_failure(lease, &class, false, now, 0.0);
    }
    let tried = [Tried::No; 3];
    let choice = choose_after(&mut spreader, &turn, &tried, now);
    assert!(matches!(choice, Choice::Wait { until } if until == now + 20 * SECOND));
    assert_eq!(
        spreader.next(&turn, &tried, now),
        Reroute::After(20 * SECOND)
    );
    // Not before the deadline.
    let mut skipped = Vec::new();
    let latest = now + 19 * SECOND;
    let choice = spreader.choose(&turn, &tried, &mut skipped, latest, now);
    let Choice::None { retry_after } = choice else {
        panic!("{choice:?}");
    };
    assert_eq!(retry_after, Some(20 * SECOND));
    assert_eq!(skipped.len(), 3);
    let lease = choose(&mut spreader, &turn, now + 20 * SECOND);
    assert!(lease.is_probe());
}

#[test]
fn guess_of_a_pause_rejects_nothing() {
    let mut spreader = spreader(vec![target("a", "a")]);
    let now = Instant::now();
    let turn = request(prompt(7, 2));
    let lease = choose(&mut spreader, &turn, now);
    spreader.on_failure(lease, &Class::new(Kind::RateLimited), false, now, 0.0);
    let choice = spreader.choose(&turn, &[Tried::No], &mut Vec::new(), now, now);
    assert!(matches!(choice, Choice::Send(lease) if lease.reason() == Reason::Soonest));
}

/// The end of an attempt.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered,
    Failed(Kind),
    Asked(u32),
    Excluded,
    Dropped,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        Just(Fate::Answered),
        Just(Fate::Failed(Kind::Overloaded)),
        Just(Fate::Failed(Kind::Timeout)),
        Just(Fate::Failed(Kind::RateLimited)),
        (1_u32..90).prop_map(Fate::Asked),
        Just(Fate::Excluded),
        Just(Fate::Dropped),
    ]
}

proptest! {
    /// No target gets a call twice before every other one has had it, has been excluded, or was
    /// down. Every call ends.
    #[test]
    fn each_target_is_tried_once_before_one_is_tried_again(
        calls in prop::collection::vec(
            (0_u64..5, prop::collection::vec(fate(), 1..8), 0_u32..30), 1..20),
    ) {
        let mut spreader = spreader(three());
        let mut now = Instant::now();
        for (key, fates, pause) in calls {
            let turn = request(prompt(key, 3));
            let mut tried = [Tried::No; 3];
            let mut sent: HashMap<usize, u32> = HashMap::new();
            for fate in fates {
                let mut skipped = Vec::new();
                let choice = spreader.choose(&turn, &tried, &mut skipped, now + 60 * SECOND, now);
                let lease = match choice {
                    Choice::Send(lease) => lease,
                    Choice::Wait { until } => {
                        prop_assert!(until > now && until <= now + 60 * SECOND);
                        now = until;
                        continue;
                    }
                    Choice::None { retry_after } => {
                        let is_excluded = |tried: &Tried| matches!(tried, Tried::Excluded(_));
                        prop_assert!(retry_after.is_some() || tried.iter().all(is_excluded));
                        break;
                    }
                    other => panic!("{other:?}"),
                };
                let target = lease.target();
                prop_assert!(!matches!(tried[target], Tried::Excluded(_)));
                prop_assert!(skipped.iter().all(|(other, _)| *other != target));
                let is_again = tried[target] != Tried::No;
                for (other, state) in tried.iter().enumerate() {
                    let is_down = skipped.iter().any(|(skip, _)| *skip == other);
                    prop_assert!(
                        !is_again || other == target || *state != Tried::No || is_down
                    );
                }
                *sent.entry(target).or_default() += 1;
                let fail = |class: Class, spreader: &mut Spreader, lease: Lease| {
                    spreader.on_failure(lease, &class, false, now, 0.5);
                    Tried::Failed(Skip::Failed(class.kind))
                };
                match fate {
                    Fate::Answered => {
                        answer(&mut spreader, &turn, lease, now);
                        break;
                    }
                    Fate::Dropped => {
                        spreader.release(lease, now);
                        break;
                    }
                    Fate::Failed(kind) => {
                        tried[target] = fail(Class::new(kind), &mut spreader, lease);
                    }
                    Fate::Asked(seconds) => {
                        let wait = Some(seconds * SECOND);
                        let class = Class::new(Kind::RateLimited).with_retry_after(wait);
                        tried[target] = fail(class, &mut spreader, lease);
                    }
                    Fate::Excluded => {
                        spreader.release(lease, now);
                        tried[target] = Tried::Excluded(Skip::Rejected(Kind::Overloaded));
                    }
                }
                // What is announced for the next attempt is what happens.
                match spreader.next(&turn, &tried, now) {
                    Reroute::AtOnce => {
                        let choice = choose_after(&mut spreader, &turn, &tried, now);
                        let Choice::Send(lease) = choice else {
                            panic!("{choice:?}");
                        };
                        prop_assert_eq!(tried[lease.target()], Tried::No);
                        spreader.release(lease, now);
                    }
                    Reroute::Nowhere => {
                        let choice = choose_after(&mut spreader, &turn, &tried, now);
                        let is_none = matches!(choice, Choice::None { .. });
                        prop_assert!(is_none);
                    }
                    _ => {}
                }
            }
            now += pause * SECOND;
        }
    }

    /// A conversation whose thinking is bound never leaves its account, whatever fails.
    #[test]
    fn bound_thinking_never_leaves_its_account(
        steps in prop::collection::vec((0_u64..4, fate(), 0_u32..400), 1..80),
    ) {
        let mut spreader = spreader(vec![
            target("a1", "a"), target("a2", "a"), target("b", "b"), target("c", "c"),
        ]);
        let accounts = ["a", "a", "b", "c"];
        let mut now = Instant::now();
        let mut homes: HashMap<u64, &str> = HashMap::new();
        let mut turns: HashMap<u64, u64> = HashMap::new();
        for (key, fate, pause) in steps {
            now += pause * SECOND;
            let turn = *turns.get(&key).unwrap_or(&1);
            let request = bound(with_thinking(key, turn));
            let choice = choose_after(&mut spreader, &request, &[Tried::No; 4], now);
            let Choice::Send(lease) = choice else {
                continue;
            };
            let account = accounts[lease.target()];
            if let Some(home) = homes.get(&key) {
                prop_assert_eq!(*home, account);
            }
            let class = match fate {
                Fate::Answered => {
                    homes.insert(key, account);
                    turns.insert(key, turn + 1);
                    answer(&mut spreader, &request, lease, now);
                    continue;
                }
                Fate::Failed(kind) => Class::new(kind),
                Fate::Asked(seconds) => {
                    Class::new(Kind::RateLimited).with_retry_after(Some(seconds * SECOND))
                }
                Fate::Excluded => Class::new(Kind::Unauthorized),
                Fate::Dropped => {
                    spreader.release(lease, now);
                    continue;
                }
            };
            spreader.on_failure(lease, &class, false, now, 0.5);
        }
    }
}
