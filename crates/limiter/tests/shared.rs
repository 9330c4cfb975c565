//! Several processes on one key, without a common store.

mod fleet;

use fleet::Fleet;
use tower_claude_limiter::Sharing;

#[test]
fn probe() {
    for (name, fleet) in [
        ("1", Fleet::default()),
        (
            "4",
            Fleet {
                pools: 4,
                ..Fleet::default()
            },
        ),
        (
            "16",
            Fleet {
                pools: 16,
                ..Fleet::default()
            },
        ),
        (
            "16s",
            Fleet {
                pools: 16,
                config: Fleet::default().config.with_sharing(Sharing::Shared),
                ..Fleet::default()
            },
        ),
        (
            "16x",
            Fleet {
                pools: 16,
                config: Fleet::default().config.with_sharing(Sharing::Exclusive),
                ..Fleet::default()
            },
        ),
        (
            "ext20",
            Fleet {
                external: 0.2,
                ..Fleet::default()
            },
        ),
        (
            "ext50",
            Fleet {
                external: 0.5,
                ..Fleet::default()
            },
        ),
        (
            "ext80",
            Fleet {
                external: 0.8,
                ..Fleet::default()
            },
        ),
        (
            "conc10",
            Fleet {
                concurrency: 10,
                workers: 300,
                ..Fleet::default()
            },
        ),
        (
            "conc40x4",
            Fleet {
                concurrency: 40,
                pools: 4,
                workers: 75,
                ..Fleet::default()
            },
        ),
    ] {
        for seed in 1..3 {
            let fleet = Fleet {
                seed,
                ..fleet.clone()
            };
            let report = fleet.run();
            println!("{name} {seed} {:.2}/1k {report:?}", report.per_thousand());
        }
    }
}
