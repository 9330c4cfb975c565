//! The page `/plan` of the admin address: the plan of the last 24 hours of the event log.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::response::Response;
use http::{HeaderValue, StatusCode, header::RETRY_AFTER};
use tokio::{
    sync::Mutex,
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tower_claude::event_log::EventLog;

use crate::dashboard::response;

/// The period of the plan.
const PERIOD: Duration = Duration::from_secs(24 * 3_600);

/// The time for which a plan is shown again.
const FRESH: Duration = Duration::from_secs(60);

/// The longest time that a request waits for a plan. The plan goes on.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The input of a plan.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PlanInput {
    /// The files of the event log, the oldest first. Rows before `since` are to be left out.
    pub files: Vec<PathBuf>,
    /// The start of the period.
    pub since: SystemTime,
    /// The end of the period.
    pub until: SystemTime,
}

/// A plan, as text of some type.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PlanPage {
    /// The type of the text, such as `text/html; charset=utf-8`.
    pub content_type: &'static str,
    /// The text. A page of HTML must not load anything.
    pub text: String,
}

impl PlanPage {
    /// Creates a page.
    #[must_use]
    pub const fn new(content_type: &'static str, text: String) -> Self {
        Self { content_type, text }
    }
}

/// A function that makes a plan, or returns the reason why it cannot. It may block.
pub type RenderPlan = Arc<dyn Fn(&PlanInput) -> Result<PlanPage, String> + Send + Sync>;

/// The plans of a gateway. One is made at a time.
pub(crate) struct Plans {
    log: EventLog,
    render: RenderPlan,
    last: Mutex<Option<(Instant, Result<PlanPage, String>)>>,
}

impl Plans {
    pub(crate) fn new(log: EventLog, render: RenderPlan) -> Self {
        Self {
            log,
            render,
            last: Mutex::default(),
        }
    }

    /// Returns the last plan if it is fresh, or else a new one.
    async fn plan(self: Arc<Self>) -> Result<PlanPage, String> {
        let mut last = self.last.lock().await;
        if let Some((made, plan)) = &*last
            && made.elapsed() < FRESH
        {
            return plan.clone();
        }
        let plans = self.clone();
        let until = SystemTime::now();
        let made = spawn_blocking(move || {
            let input = PlanInput {
                files: plans.log.files(),
                // The files of a log of one day are not all of that day.
                since: until.checked_sub(PERIOD).unwrap_or(SystemTime::UNIX_EPOCH),
                until,
            };
            (plans.render)(&input)
        });
        let plan = match made.await {
            Ok(plan) => plan,
            Err(error) => {
                tracing::error!(%error, "the plan was not made");
                Err("the plan was not made because of an error in the program".to_owned())
            }
        };
        *last = Some((Instant::now(), plan.clone()));
        plan
    }

    /// Answers a request for the plan.
    pub(crate) async fn answer(self: Arc<Self>) -> Response {
        // A client that leaves does not end the plan, which the next one gets.
        let plan = tokio::spawn(self.plan());
        let plain = "text/plain; charset=utf-8";
        match timeout(TIMEOUT, plan).await {
            Ok(Ok(Ok(page))) => response(page.content_type, page.text.into()),
            Ok(Ok(Err(reason))) => {
                let mut response = response(plain, format!("{reason}\n").into());
                *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
                response
            }
            Ok(Err(_)) | Err(_) => {
                let text = "the plan is being made, reload in some seconds\n";
                let mut response = response(plain, text.into());
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                let seconds = HeaderValue::from_static("5");
                response.headers_mut().insert(RETRY_AFTER, seconds);
                response
            }
        }
    }
}
