//! Crashes after each journal write and after each request: each question is billed once.

use std::{
    collections::BTreeMap,
    future::{Future, pending},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http::{Request, Response};
use tokio::{sync::Notify, task::JoinHandle, time::timeout};
use tower::{Layer, Service};
use tower_claude_batch::{BatchLayer, Journal, JournalError, Record};
use tower_claude_core::RequestBody;
use tower_claude_fake_claude::{Endpoint, FakeBody, FakeClaude, FakeError, LostCreation};

use crate::api::*;

/// Counts steps, and crashes after one of them.
#[derive(Clone, Default)]
struct Crash {
    steps: Arc<AtomicUsize>,
    at: Option<usize>,
    has_crashed: Arc<AtomicBool>,
    notify: Arc<Notify>,
}

impl Crash {
    fn after(at: Option<usize>) -> Self {
        Self {
            at,
            ..Self::default()
        }
    }

    fn is_down(&self) -> bool {
        self.has_crashed.load(Ordering::SeqCst)
    }

    /// Counts a step that was done. Returns false if the program is down from now on.
    fn step(&self) -> bool {
        if self.is_down() {
            return false;
        }
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        if Some(step) == self.at {
            self.has_crashed.store(true, Ordering::SeqCst);
            self.notify.notify_one();
        }
        !self.is_down()
    }
}

/// A journal that survives the crash.
#[derive(Clone)]
struct CrashJournal {
    records: Arc<Mutex<Vec<Record>>>,
    crash: Crash,
}

impl Journal for CrashJournal {
    fn secret(&self) -> [u8; 32] {
        [9; 32]
    }

    fn replay(&mut self) -> Vec<Record> {
        self.records.lock().unwrap().clone()
    }

    fn append(&mut self, records: &[Record], _: bool) -> Result<(), JournalError> {
        if self.crash.is_down() {
            return Err(JournalError::Gone);
        }
        self.records.lock().unwrap().extend_from_slice(records);
        self.crash.step();
        Ok(())
    }

    fn compact(&mut self, records: &[Record]) -> Result<(), JournalError> {
        if self.crash.is_down() {
            return Err(JournalError::Gone);
        }
        *self.records.lock().unwrap() = records.to_vec();
        self.crash.step();
        Ok(())
    }

    fn is_persistent(&self) -> bool {
        true
    }
}

/// A client whose program may be down before the response arrives.
#[derive(Clone)]
struct CrashClient {
    fake: FakeClaude,
    crash: Crash,
}

impl Service<Request<RequestBody>> for CrashClient {
    type Response = Response<FakeBody>;
    type Error = FakeError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<FakeBody>, FakeError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), FakeError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let (mut fake, crash) = (self.fake.clone(), self.crash.clone());
        Box::pin(async move {
            if crash.is_down() {
                return pending().await;
            }
            let response = fake.call(request).await;
            match crash.step() {
                true => response,
                false => pending().await,
            }
        })
    }
}

const QUESTIONS: [&str; 3] = ["first", "second", "third"];

/// Asks all questions, and returns true if all were answered before the crash.
async fn run(
    fake: &FakeClaude,
    records: &Arc<Mutex<Vec<Record>>>,
    crash: &Crash,
    now: impl Fn() -> std::time::SystemTime + Send + Sync + 'static,
) -> bool {
    let journal = CrashJournal {
        records: records.clone(),
        crash: crash.clone(),
    };
    let client = CrashClient {
        fake: fake.clone(),
        crash: crash.clone(),
    };
    let (layer, driver) = BatchLayer::new(journal).with_clock(now).pair();
    let driver = tokio::spawn(driver.run(client.clone()));
    let calls: Vec<JoinHandle<Answer>> = QUESTIONS
        .iter()
        .map(|text| {
            let (service, request) = (layer.layer(client.clone()), question(text, 20 * HOUR));
            tokio::spawn(async move {
                tower_claude_tests::send(&service, request)
                    .await
                    .expect("a response")
            })
        })
        .collect();
    let answered = async {
        for call in &calls {
            while !call.is_finished() {
                tokio::time::sleep(SECOND).await;
            }
        }
        // The last records are written.
        tokio::time::sleep(MINUTE).await;
        true
    };
    let is_answered = tokio::select! {
        answered = timeout(30 * HOUR, answered) => answered.expect("no call hangs"),
        () = crash.notify.notified() => false,
    };
    driver.abort();
    let _ = driver.await;
    for call in calls {
        call.abort();
        match call.await {
            Ok(answer) if is_answered => assert_eq!(answer.status, 200),
            _ => {}
        }
    }
    is_answered && !crash.is_down()
}

/// Returns how often each question was processed.
fn bills(fake: &FakeClaude, lost: bool) -> BTreeMap<String, usize> {
    let mut bills = BTreeMap::new();
    for attempt in fake.log() {
        let bodies = match attempt.endpoint {
            Endpoint::Messages => {
                let request = attempt.request.as_ref().expect("kept");
                vec![String::from_utf8(request.body.to_vec()).expect("text")]
            }
            _ if is_creation(&attempt) && (attempt.status == 200 || lost) => params(&attempt),
            _ => continue,
        };
        for body in bodies {
            let question = QUESTIONS.iter().find(|text| body.contains(**text));
            *bills
                .entry((*question.expect("a question")).to_owned())
                .or_default() += 1;
        }
    }
    bills
}

async fn crash_everywhere(lost: Option<LostCreation>) {
    let mut crashes = 0;
    for at in 0.. {
        let fake = api().build();
        if let Some(lost) = lost {
            fake.lose_creation(lost);
        }
        let (records, now) = (Arc::default(), clock());
        let crash = Crash::after(Some(at));
        let is_answered = run(&fake, &records, &crash, now.clone()).await;
        crashes += usize::from(!is_answered);
        if !is_answered {
            // The program starts again, and asks again.
            let healthy = Crash::after(None);
            assert!(run(&fake, &records, &healthy, now).await);
        }
        let expected = QUESTIONS.map(|text| (text.to_owned(), 1));
        let bills = bills(&fake, lost.is_some());
        assert_eq!(bills, expected.into(), "crash after step {at}, {lost:?}");
        if is_answered {
            break;
        }
    }
    assert!(crashes >= 6, "only {crashes} steps");
}

#[tokio::test(start_paused = true)]
async fn crash_at_any_step_bills_each_question_once() {
    crash_everywhere(None).await;
}

#[tokio::test(start_paused = true)]
async fn crash_at_any_step_after_a_lost_creation_bills_each_question_once() {
    crash_everywhere(Some(LostCreation::Reset)).await;
    crash_everywhere(Some(LostCreation::ServerError)).await;
}

#[tokio::test(start_paused = true)]
async fn two_crashes_in_a_row_bill_each_question_once() {
    for first in 0..6 {
        for second in 0..6 {
            let fake = api().build();
            let (records, now) = (Arc::default(), clock());
            for crash in [Some(first), Some(second), None] {
                run(&fake, &records, &Crash::after(crash), now.clone()).await;
            }
            let expected = QUESTIONS.map(|text| (text.to_owned(), 1));
            assert_eq!(bills(&fake, false), expected.into(), "{first}, {second}");
        }
    }
}
