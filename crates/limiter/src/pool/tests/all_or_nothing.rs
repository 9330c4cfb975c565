//! A request that is not sent takes nothing.

use proptest::prelude::*;
use tower_claude_core::Cost;

use super::{MS, S, levels, literal, n, pool};
use crate::{
    Limits, Settlement,
    pool::{Enqueued, PoolRequest},
};

proptest! {
    /// Rejected, cancelled, or admitted and never sent: all levels equal those of a pool without
    /// the request, to the last unit.
    #[test]
    fn unsent_request_leaves_no_trace(
        input in 0_u64..3_000,
        output in 0_u64..3_000,
        patience in prop::option::of(0_u64..90),
        passed in 0_u64..5_000_000_000,
        kept in 1_u64..5_000_000_000,
    ) {
        // No level is full again before the end: what is given back to a full bucket is lost.
        let limits = Limits::new()
            .with_requests_per_minute(n(101))
            .with_input_tokens_per_minute(n(2_003))
            .with_output_tokens_per_minute(n(1_009))
            .with_total_tokens_per_minute(n(2_503));
        let (mut with, mut without) = (pool(&limits, literal()), pool(&limits, literal()));
        for pool in [&mut with, &mut without] {
            for cost in [Cost::new(900, 700), Cost::new(0, 0)].into_iter().chain([Cost::new(1, 1); 20]) {
                let ask = PoolRequest::new(cost, 0);
                prop_assert!(matches!(pool.enqueue(0, ask), Ok(Enqueued::Granted(_))));
            }
        }
        let ask = PoolRequest::new(Cost::new(input, output), passed)
            .with_max_wait(patience.map(|seconds| seconds * S));
        let asked = with.enqueue(passed, ask);
        let later = passed + kept.min(MS);
        without.advance(later);
        match asked {
            Ok(Enqueued::Waiting(waiter)) => {
                with.advance(later);
                prop_assert_eq!(levels(&with), levels(&without), "while it waits");
                prop_assert!(with.cancel(waiter));
            }
            Ok(Enqueued::Granted(id)) => with.settle(later, id, &Settlement::NotSent),
            Err(_) => {
                with.advance(later);
            }
        }
        prop_assert_eq!(levels(&with), levels(&without));
        prop_assert_eq!(with.in_flight(), without.in_flight());
        prop_assert_eq!(with.queued(), 0);
        prop_assert_eq!(with.queue.total(), without.queue.total());
    }
}
