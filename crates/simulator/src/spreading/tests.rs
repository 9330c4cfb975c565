use super::{
    load::conversations,
    run::run,
    server::Row,
    spread_table,
    strategy::{STRATEGIES, StrategyKind},
};
use crate::{options::Options, units::MINUTE};

#[test]
fn run_of_a_seed_is_always_the_same() {
    let calls = conversations(7, 20 * MINUTE);
    for kind in STRATEGIES {
        let first = run(&calls, Row::Troubled, kind, 7, 20 * MINUTE);
        let second = run(&calls, Row::Troubled, kind, 7, 20 * MINUTE);
        assert!(first.answered > 500, "{}", first.answered);
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
    }
}

#[test]
fn ours_breaks_no_conversation_where_others_do() {
    let calls = conversations(3, 20 * MINUTE);
    let broken = |kind| run(&calls, Row::Troubled, kind, 3, 20 * MINUTE).broken;
    assert_eq!(broken(StrategyKind::Ours), 0);
    for kind in &STRATEGIES[..3] {
        assert!(broken(*kind) > 10);
    }
}

#[test]
fn ours_costs_less_than_random_and_weighted_with_no_more_429s() {
    for row in Row::ALL {
        let calls = conversations(3, 20 * MINUTE);
        let of = |kind| run(&calls, row, kind, 3, 20 * MINUTE);
        let ours = of(StrategyKind::Ours);
        for kind in [StrategyKind::Random, StrategyKind::Weighted] {
            let other = of(kind);
            assert!(ours.cost() < other.cost(), "{row:?} {kind:?}");
            assert!(
                ours.limited_share() <= other.limited_share(),
                "{row:?} {kind:?}"
            );
        }
    }
}

#[test]
fn unknown_row_is_an_error() {
    let unknown = Options {
        only: Some("S9".to_owned()),
        ..Options::default()
    };
    assert!(spread_table(&unknown).is_err());
    let replay = Options {
        trace: Some("trace.csv".into()),
        ..Options::default()
    };
    assert!(spread_table(&replay).is_err());
}
