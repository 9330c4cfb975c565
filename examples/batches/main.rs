//! Half the bill for calls that can wait: 200 reviews are summarized by batches, and the program is
//! restarted while they run.
//!
//! `cargo run --example batches`. The API is the fake one, and time is paused, so that hours take a
//! moment.

use std::{error::Error, path::Path, time::Duration};

use tokio::task::JoinSet;
use tower::{Layer, ServiceExt};
use tower_claude::{
    RequestBody,
    batch::{BatchLayer, BatchSnapshot, FileJournal, Tolerance},
    recommended,
};
use tower_claude_fake_claude::{FakeClaude, LostCreation};

const HOUR: Duration = Duration::from_secs(3_600);
const REVIEWS: usize = 200;

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    let fake = FakeClaude::builder()
        .batch_time(Duration::from_secs(1_200))
        .output_tokens(300)
        .build();
    let path = std::env::temp_dir().join(format!("tower-claude-batches-{}", std::process::id()));

    println!("first run: {REVIEWS} calls that can wait for four hours");
    // The worst case: the batch is created, and the connection breaks before the answer.
    fake.lose_creation(LostCreation::Reset);
    let stopped = tokio::time::timeout(HOUR / 6, run(&fake, &path)).await;
    assert!(stopped.is_err(), "the batch takes longer");
    println!("  the program stops after ten minutes, while its batch runs");

    println!("second run: the same calls");
    let snapshot = run(&fake, &path).await?;
    let created = fake.with_log(|log| {
        let creations = log.iter().filter(|attempt| {
            let request = attempt.request.as_ref();
            request.is_some_and(|request| {
                request.method == "POST" && request.uri.path().ends_with("/batches")
            })
        });
        creations.count()
    });
    println!(
        "  attached to the batch of the first run: {}",
        snapshot.attached
    );
    println!("  answered by batches: {}", snapshot.answered);
    println!("  batches created in both runs: {created}");
    println!("  sent twice: {}", snapshot.sent_twice);
    println!("  tokens: {}", snapshot.tokens);
    println!("  cost: {:.4}", snapshot.cost);
    println!("  saved: {:.4}", snapshot.saved);
    assert_eq!((snapshot.answered, created), (REVIEWS as u64, 1));
    for suffix in ["", ".lock"] {
        std::fs::remove_file(format!("{}{suffix}", path.display()))?;
    }
    Ok(())
}

/// Summarizes all reviews, as a program with this journal.
async fn run(fake: &FakeClaude, path: &Path) -> Result<BatchSnapshot, Box<dyn Error>> {
    let (batches, driver) = BatchLayer::new(FileJournal::open(path)?).pair();
    let stack = batches.layer(recommended().layer(fake.clone()));
    let mut calls = JoinSet::new();
    for number in 0..REVIEWS {
        let request = http::Request::post("https://api.anthropic.com/v1/messages")
            .header("x-api-key", "key")
            .header("anthropic-version", "2023-06-01")
            .extension(Tolerance(4 * HOUR))
            .body(RequestBody::from(format!(
                r#"{{"model":"claude-sonnet-5-5","max_tokens":400,"messages":[{{"role":"user",
                "content":"Summarize review {number}: {}"}}]}}"#,
                "It arrived late, but works well. ".repeat(40),
            )))?;
        let call = stack.clone().oneshot(request);
        calls.spawn(async move { call.await.map(|response| response.status()) });
    }
    let answered = async {
        while let Some(call) = calls.join_next().await {
            assert_eq!(call??, 200);
        }
        Ok(batches.handle().snapshot())
    };
    // A service would spawn the driver. Here it stops with this run, as if the program had ended.
    tokio::select! {
        () = driver.run(stack.clone()) => unreachable!("the driver runs until it is dropped"),
        snapshot = answered => snapshot,
    }
}
