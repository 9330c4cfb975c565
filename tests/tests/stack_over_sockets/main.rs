//! The whole stack over real sockets. No test looks at a clock: every wait is for bytes, for the
//! server's log or for a task. One long bound per test turns a hang into a failure.

#[path = "../common/mod.rs"]
mod common;

mod around_a_handler;
mod over_a_client;

use std::time::Duration;

/// Far longer than any of these tests takes.
pub(crate) async fn bounded<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), test)
        .await
        .expect("the test hangs")
}
