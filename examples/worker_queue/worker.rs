//! A worker: takes jobs while the limiter can serve them soon, and stores the answers.

use std::{error::Error, num::NonZeroU32, time::Duration};

use http::Request;
use http_body_util::BodyExt;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tower::{Layer, Service, ServiceExt};
use tower_claude::{RequestBody, recommended};
use tower_claude_core::Priority;
use tower_claude_limiter::{Limiter, Limits};
use tower_claude_redis::{RedisConfig, RedisLimiter};
use tower_claude_reqwest::HttpService;
use tower_claude_token_bucket::TokenBucketLayer;

use crate::{
    BURST, INPUT_PER_MINUTE, MODEL,
    queue::{Job, Queue, RENEW_EVERY, STREAMS},
};

/// A worker takes no job that would wait longer for the limit. The job stays in the queue, where
/// another worker can take it, and more urgent ones go first.
const PATIENCE: Duration = Duration::from_millis(500);
/// Jobs of a worker at once.
const MAX_RUNNING: usize = 64;
/// Pause before an empty or busy queue is read again.
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// Works until all jobs are answered.
pub(crate) async fn run(redis: &str, api: &str, name: &str) -> Result<(), BoxError> {
    let mut queue = Queue::open(redis, name).await?;
    let limits = Limits::new()
        .with_input_tokens_per_minute(INPUT_PER_MINUTE)
        .with_burst(BURST)
        .with_concurrency(NonZeroU32::new(MAX_RUNNING as u32).ok_or("no job at once")?);
    // All workers share the limit of the key.
    let (limiter, driver) = RedisLimiter::connect(&RedisConfig::new(redis)?, limits).await?;
    tokio::spawn(driver);
    let bucket = TokenBucketLayer::over(limiter.clone()).with_max_wait(Duration::from_secs(60));
    let claude = recommended()
        .with_bucket(bucket)
        .layer(HttpService::recommended()?);

    let mut running = JoinSet::new();
    let mut jobs: Vec<Job> = Vec::new();
    let mut renewed = Instant::now();
    loop {
        let next = match running.len() < MAX_RUNNING {
            true => take(&mut queue, &limiter).await?,
            false => None,
        };
        if let Some(job) = next {
            jobs.push(job.clone());
            let (claude, queue, url) =
                (claude.clone(), queue.clone(), format!("{api}/v1/messages"));
            running.spawn(async move {
                let done = answer(claude, queue, &url, &job).await;
                (job.number, done)
            });
        } else if running.is_empty() {
            let (answered, all) = queue.progress().await?;
            if answered >= all {
                return Ok(());
            }
            sleep(PAUSE).await;
        } else {
            tokio::select! {
                Some(done) = running.join_next() => {
                    let (number, done) = done?;
                    // A job without an answer is no longer renewed, so that a worker claims it.
                    jobs.retain(|job| job.number != number);
                    done?;
                }
                () = sleep(PAUSE) => {}
            }
        }
        if renewed.elapsed() >= RENEW_EVERY {
            renewed = Instant::now();
            queue.renew(&jobs).await?;
        }
    }
}

/// Takes the most urgent job that the limiter can serve soon: a new one, or one of a dead worker.
async fn take(queue: &mut Queue, limiter: &impl Limiter) -> Result<Option<Job>, BoxError> {
    for (level, (priority, _)) in STREAMS.into_iter().enumerate() {
        if estimated_wait(limiter, priority) >= PATIENCE {
            continue;
        }
        if let Some(job) = queue.next(level).await? {
            return Ok(Some(job));
        }
        if let Some(job) = queue.claim(level).await? {
            return Ok(Some(job));
        }
    }
    Ok(None)
}

/// Returns the wait of a new request of this priority, as the limiter estimates it.
fn estimated_wait(limiter: &impl Limiter, priority: Priority) -> Duration {
    let scopes = limiter.snapshot();
    let waits = scopes.iter().filter_map(|scope| scope.class(priority));
    waits
        .map(|class| class.estimated_wait)
        .max()
        .unwrap_or_default()
}

/// Makes the call of a job and stores its answer. A failure that may pass is no answer.
async fn answer<S, B>(claude: S, mut queue: Queue, url: &str, job: &Job) -> Result<(), BoxError>
where
    S: Service<Request<RequestBody>, Response = http::Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Error: Into<BoxError>>,
{
    let content = serde_json::to_string(&job.prompt)?;
    let request = Request::post(url)
        .header("x-api-key", "queue")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .header("x-fake-tag", format!("{}/{}", job.level, job.number))
        .extension(STREAMS[job.level].0)
        .body(RequestBody::from(format!(
            r#"{{"model":"{MODEL}","max_tokens":64,"messages":[{{"role":"user","content":{content}}}]}}"#
        )))?;
    let Ok(response) = claude.oneshot(request).await else {
        return Ok(()); // no response
    };
    let status = response.status();
    let Ok(body) = response.into_body().collect().await else {
        return Ok(()); // half a response
    };
    if status.is_success() {
        let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        queue.finish(job, &text).await?;
    } else if status.is_client_error() && status != http::StatusCode::TOO_MANY_REQUESTS {
        queue.finish(job, &format!("failed: {status}")).await?;
    }
    Ok(())
}
