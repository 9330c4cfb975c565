use serde_json::Value;
use tower_claude_wire::{BlockKind, PromptPart};

use super::{
    CacheOptions, CacheTable, Prices,
    bound::least_cost,
    cache_table,
    loads::{LOADS, Load},
    run::run,
    strategy::{STRATEGIES, StrategyKind},
    traffic::{Conversation, ConversationBuilder},
};
use crate::units::{HOUR, MINUTE, SECOND};

const PRICES: Prices = Prices {
    read: 0.1,
    write_5m: 1.25,
    write_1h: 2.0,
    least_tokens: 1_024,
    stores: 1,
};

fn quick(only: &str) -> CacheTable {
    let options = CacheOptions {
        quick: true,
        seeds: 2,
        only: Some(only.to_owned()),
        ..CacheOptions::default()
    };
    cache_table(&options).expect("a load")
}

/// The goals of the whole table, with room for the noise of 40 minutes.
#[test]
fn planner_meets_its_goals_loosely_in_a_short_run() {
    let of_bound = |load| match load {
        Load::Agents => 1.08,
        Load::FanOut => 1.15,
        Load::Mix => 1.40,
        _ => f64::INFINITY,
    };
    let most = |load| match load {
        Load::OneShot | Load::Stamped => 1.01,
        _ => 1.02,
    };
    for load in LOADS {
        let table = quick(load.id());
        let result = &table.results[0];
        for seed in &result.seeds {
            let cost = |kind: StrategyKind| {
                let index = STRATEGIES.iter().position(|other| *other == kind);
                seed.tallies[index.expect("a strategy")].cost(&table.prices)
            };
            let (open, ours) = (cost(StrategyKind::Ours), cost(StrategyKind::OursWithGate));
            assert!(
                open <= most(load) && ours <= most(load),
                "{load:?}: {open}, {ours}"
            );
            assert!(
                ours <= of_bound(load) * seed.bound,
                "{load:?}: {ours} of {}",
                seed.bound
            );
            assert_eq!(cost(StrategyKind::Never), 1.0);
            // No strategy can beat the bound.
            for kind in STRATEGIES {
                let cost = cost(kind);
                assert!(cost >= seed.bound - 1e-9, "{load:?}, {kind:?}: {cost}");
            }
        }
    }
}

#[test]
fn gate_frees_the_input_limit_in_a_fan_out() {
    let table = quick("C5");
    let figure = |kind, metric| {
        let figures = table.results[0].figures(&table, kind);
        let figure = figures.iter().find(|figure| figure.metric == metric);
        figure.expect("a figure").value
    };
    assert!(figure(StrategyKind::OursWithGate, "limit_share") < 0.2);
    assert!(figure(StrategyKind::Ours, "limit_share") > 0.9);
    let wait = figure(StrategyKind::OursWithGate, "wait_s");
    assert!((0.5..3.0).contains(&wait), "{wait}");
}

/// A server whose requests often miss what was just written.
#[test]
fn planner_loses_nothing_to_an_unreliable_cache() {
    for load in [Load::Agents, Load::FanOut, Load::Chats] {
        let options = CacheOptions {
            quick: true,
            seeds: 1,
            only: Some(load.id().to_owned()),
            stores: 4,
            ..CacheOptions::default()
        };
        let table = cache_table(&options).expect("a load");
        let ours = table.results[0].cost(&table, StrategyKind::OursWithGate);
        assert!(ours <= 1.05, "{load:?}: {ours}");
    }
}

#[test]
fn same_seed_gives_the_same_figures() {
    let json = quick("C6").json();
    assert_eq!(json, quick("c6").json());
    let figures: Value = serde_json::from_str(&json).expect("JSON");
    let figures = figures.as_array().expect("an array");
    let bound = figures.iter().find(|figure| figure["strategy"] == "bound");
    assert!(bound.is_some_and(|bound| bound["goal"].is_null()));
    let ours = figures.iter().find(|figure| figure["strategy"] == "ours");
    assert_eq!(ours.expect("ours")["goal"], "<= 1.02");
}

#[test]
fn unknown_load_and_impossible_price_are_errors() {
    let options = CacheOptions {
        only: Some("C8".to_owned()),
        ..CacheOptions::default()
    };
    assert!(cache_table(&options).is_err());
    for read in [-0.1, 1.1, f64::NAN] {
        let options = CacheOptions {
            read,
            ..CacheOptions::default()
        };
        assert!(cache_table(&options).is_err(), "{read}");
    }
}

#[test]
fn picture_has_a_bar_for_each_strategy_and_load() {
    let picture = quick("C4").picture();
    let bars = picture.matches("<rect").count();
    // The background, and the legend.
    assert_eq!(bars, 1 + 2 * STRATEGIES.len());
}

/// Returns a conversation of one request with a document of 2,000 tokens, and a question.
fn question(start: u64, document: u64, question: u64) -> Conversation {
    let mut builder = ConversationBuilder::new(start);
    builder.message(0, BlockKind::Document, document, 2_000);
    builder.message(0, BlockKind::Text, question, 100);
    builder.step(0, SECOND, SECOND);
    builder.build()
}

fn bound_of(times: &[u64]) -> f64 {
    let at = times.iter().enumerate();
    let conversations: Vec<_> = at
        .map(|(index, at)| question(*at, 0, index as u64))
        .collect();
    let requests: Vec<_> = times
        .iter()
        .enumerate()
        .map(|(index, at)| (*at, index, 2))
        .collect();
    least_cost(&requests, &conversations, &PRICES)
}

#[test]
fn bound_buys_each_block_at_the_least_price() {
    let cost = |document: f64, questions: usize| 2_000.0 * document + 100.0 * questions as f64;
    let is = |times: &[u64], document: f64| {
        let (seen, expected) = (bound_of(times), cost(document, times.len()));
        assert!(
            (seen - expected).abs() < 1e-6,
            "{times:?}: {seen}, not {expected}"
        );
    };
    is(&[0], 1.0);
    is(&[0, MINUTE], 1.25 + 0.1);
    // Each read renews the entry.
    is(&[0, 4 * MINUTE, 8 * MINUTE], 1.25 + 0.2);
    // Two uses with a pause are cheaper without a cache, three are not.
    is(&[0, 30 * MINUTE], 2.0);
    is(&[0, 30 * MINUTE, 60 * MINUTE], 2.0 + 0.2);
    is(&[0, 2 * HOUR, 4 * HOUR], 3.0);
}

#[test]
fn bound_does_not_cache_a_prefix_that_is_too_short() {
    let short = |start| {
        let mut builder = ConversationBuilder::new(start);
        builder.system(0, 1_000);
        builder.message(0, BlockKind::Text, start, 500);
        builder.step(0, SECOND, SECOND);
        builder.build()
    };
    let conversations = [short(0), short(1)];
    let requests = [(0, 0, 2), (1, 1, 2)];
    assert_eq!(least_cost(&requests, &conversations, &PRICES), 3_000.0);
}

#[test]
fn server_in_the_simulation_splits_the_input_by_its_price() {
    let conversations = [
        question(0, 0, 1),
        question(MINUTE, 0, 2),
        question(MINUTE, 0, 2),
    ];
    let tally = run(&conversations, StrategyKind::Automatic, &PRICES, HOUR).expect("valid markers");
    assert_eq!((tally.requests, tally.total), (3, 6_300));
    // The last two are equal, but they are sent at the same time.
    assert_eq!((tally.read, tally.written_5m), (0, 6_300));
    assert!((tally.cost(&PRICES) - 1.25).abs() < 1e-9);
    assert_eq!(tally.counted, [2_100, 4_200]);
    let later = [question(0, 0, 1), question(MINUTE, 0, 1)];
    let tally = run(&later, StrategyKind::Automatic, &PRICES, HOUR).expect("valid markers");
    assert_eq!((tally.read, tally.written_5m), (2_100, 2_100));
    let tally = run(&later, StrategyKind::Never, &PRICES, HOUR).expect("valid markers");
    assert_eq!((tally.read, tally.written_5m, tally.written_1h), (0, 0, 0));
}

#[test]
fn loads_have_the_shape_of_their_names() {
    let of = |load: Load| load.conversations(7, HOUR);
    let first = |conversation: &Conversation| conversation.blocks[0].prefix;
    let distinct = |mut prefixes: Vec<u64>| {
        prefixes.sort_unstable();
        prefixes.dedup();
        prefixes.len()
    };
    let agents = of(Load::Agents);
    assert_eq!(
        distinct(agents.iter().map(|it| it.blocks[11].prefix).collect()),
        1
    );
    assert!(
        agents
            .iter()
            .all(|it| it.outline[11].part == PromptPart::Tools)
    );
    let tails = agents.iter().map(|it| it.blocks[13].prefix);
    assert_eq!(distinct(tails.collect()), agents.len());
    let rag = of(Load::Rag);
    let documents = distinct(rag.iter().map(|it| it.blocks[1].prefix).collect());
    assert!((150..=400).contains(&documents), "{documents}");
    let stamped = of(Load::Stamped);
    assert_eq!(distinct(stamped.iter().map(first).collect()), stamped.len());
    let one_shot = of(Load::OneShot);
    assert_eq!(distinct(one_shot.iter().map(first).collect()), 1);
    let documents = one_shot.iter().map(|it| it.blocks[1].prefix);
    assert_eq!(distinct(documents.collect()), one_shot.len());
    let fan_out = of(Load::FanOut);
    let documents = distinct(fan_out.iter().map(|it| it.blocks[1].prefix).collect());
    assert_eq!(documents * 24, fan_out.len());
    let mut gaps: Vec<u64> = of(Load::Chats)
        .iter()
        .flat_map(|it| it.steps[1..].iter().map(|step| step.gap))
        .collect();
    gaps.sort_unstable();
    let median = gaps[gaps.len() / 2];
    assert!((8 * MINUTE..15 * MINUTE).contains(&median), "{median}");
    // Loads share no block.
    let mix = of(Load::Mix);
    assert_eq!(distinct(mix.iter().map(first).collect()), 5 + stamped.len());
}
