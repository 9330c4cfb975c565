//! R17: a primary model that comes and goes, and a stand-in that works.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::sleep};
use tower::Layer;
use tower_claude_core::event::Event;
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits, Incident};
use tower_claude_fallback_model::{FallbackModelLayer, SERVED_MODEL, TargetSnapshot};

use crate::api::{OPUS, SONNET, asking, send};

/// The number of requests. A debug build takes ten times as long for each.
const REQUESTS: u32 = if cfg!(debug_assertions) {
    4_000
} else {
    100_000
};
const UP: Duration = Duration::from_secs(600);
const DOWN: Duration = Duration::from_secs(120);
const CYCLES: u32 = 14;

#[derive(Default)]
struct Counts {
    opened: AtomicUsize,
    probes: AtomicUsize,
    closed: AtomicUsize,
    fell_back: AtomicUsize,
}

fn flapping() -> FakeClaude {
    let limits = GroupLimits::unlimited();
    let mut fake = FakeClaude::builder()
        .limits(limits)
        .time_to_first_token(Duration::from_millis(200));
    let faults = [
        Fault::Overloaded,
        Fault::ServerError,
        Fault::Reset,
        Fault::ErrorBeforeContent,
    ];
    for (cycle, fault) in (0..CYCLES).zip(faults.into_iter().cycle()) {
        let from = (UP + DOWN) * cycle + UP;
        let incident = Incident::new(from, from + DOWN, fault).with_group("opus-5.5");
        fake = fake.incident(incident);
    }
    fake.build()
}

#[tokio::test(start_paused = true)]
async fn flapping_primary_causes_no_errors_and_one_probe_per_cool_down() {
    let fake = flapping();
    let counts = Arc::new(Counts::default());
    let counted = counts.clone();
    let layer = FallbackModelLayer::new([SONNET]).with_observer(move |event: &Event<'_>| {
        let counter = match event {
            Event::CircuitOpened { .. } => &counted.opened,
            Event::CircuitProbe { .. } => &counted.probes,
            Event::CircuitClosed { .. } => &counted.closed,
            Event::FellBack { .. } => &counted.fell_back,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let service = layer.layer(fake.clone());
    // All cycles take place, whatever the number of requests.
    let pause = ((UP + DOWN) * CYCLES + UP) / REQUESTS;
    let mut calls = JoinSet::new();
    let (mut served, mut by_stand_in, mut errors) = (0_u32, 0_u32, 0_u32);
    let mut note = |outcome: Result<Option<bool>, tokio::task::JoinError>| match outcome {
        Ok(Some(stand_in)) => {
            served += 1;
            by_stand_in += u32::from(stand_in);
        }
        _ => errors += 1,
    };
    for number in 0..REQUESTS {
        let stream = number % 2 == 0;
        let more = if stream { r#","stream":true"# } else { "" };
        let call = send(&service, asking(OPUS, more));
        calls.spawn(async move {
            let response = call.await.ok()?;
            let is_complete = response.is_complete(stream);
            is_complete.then(|| response.headers.contains_key(SERVED_MODEL))
        });
        sleep(pause).await;
        while let Some(outcome) = calls.try_join_next() {
            note(outcome);
        }
    }
    while let Some(outcome) = calls.join_next().await {
        note(outcome);
    }
    let failed_at = fake.with_log(|log| {
        let failed = log
            .iter()
            .filter(|one| &*one.model == OPUS && one.fault.is_some());
        failed.map(|one| one.at).collect::<Vec<_>>()
    });
    let read = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let (opened, probes, closed) = (
        read(&counts.opened),
        read(&counts.probes),
        read(&counts.closed),
    );
    println!(
        "R17: {REQUESTS} requests, {CYCLES} outages: {errors} errors, {by_stand_in} by the stand-in, \
         {} failed attempts at the primary, {opened} openings, {probes} probes, {closed} switch-backs",
        failed_at.len(),
    );
    assert_eq!((errors, served), (0, REQUESTS));
    assert_eq!(read(&counts.fell_back), by_stand_in as usize);
    // Three failures start an outage, and requests in flight fail as well. Then one per cool-down.
    assert_eq!(closed, CYCLES as usize, "one switch-back per recovery");
    // One failed probe for each further cool-down, and one that succeeds for each outage.
    assert_eq!(probes, opened, "one probe per cool-down");
    let under_way = failed_at.len() - (opened - closed) - 3 * closed;
    let most = (Duration::from_millis(200).as_nanos() / pause.as_nanos() + 1) as usize;
    assert!(under_way <= closed * most, "{under_way}");
    assert!(
        !layer
            .handle()
            .snapshot()
            .targets
            .iter()
            .any(TargetSnapshot::is_out)
    );
}
