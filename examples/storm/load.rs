//! The requests, their times and the limits, which are the same for both clients.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request};
use tower_claude_fake_claude::{FakeClaude, GroupLimits};

use crate::cli::Incident;
use crate::incidents::{self, Span};
use crate::trace::Entry;

/// Characters of text per token of this model's tokenizer.
const CHARS_PER_TOKEN: f64 = 2.5;
/// The relative error of that number, because an estimate from the length of a text is never exact.
const NOISE: f64 = 0.10;
/// The relative error of the server's own first estimate.
const SERVER_NOISE: f64 = 0.05;
/// More than any response of the trace needs, as clients set it.
const MAX_TOKENS: u64 = 4_096;
/// The duration of a refill that the buckets of the server hold.
pub(crate) const BURST: Duration = Duration::from_secs(5);
/// Connections of a client at once. Each takes two file descriptors of this process, and many
/// systems allow 1,024.
pub(crate) const CONNECTIONS: u32 = 128;
/// The model named in every request.
pub(crate) const MODEL: &str = "claude-sonnet-5-5";
/// A header that allows an older response.
pub(crate) const CACHEABLE: HeaderName = HeaderName::from_static("x-storm-cacheable");
/// The last of this many requests repeats one of an earlier group.
const REPEATS: usize = 5;
/// The distance of the repeated request, so that its response has mostly arrived.
const BACK: usize = 600;
/// The JSON around a text, which the server counts as prompt.
const AROUND: usize = r#"[{"role":"user","content":""}]"#.len();

/// One request to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    /// The time since the start of the run.
    pub(crate) at: Duration,
    pub(crate) input: u64,
    pub(crate) output: u64,
    /// Length of its text in bytes.
    pub(crate) text: usize,
    pub(crate) stream: bool,
    /// True if the caller accepts an older response.
    pub(crate) cacheable: bool,
}

/// All requests of a run.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) jobs: Vec<Job>,
    pub(crate) windows: Vec<Span>,
    pub(crate) per_minute: PerMinute,
    pub(crate) incident: Incident,
    seed: u64,
    filler: String,
}

/// The server's limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PerMinute {
    pub(crate) requests: u64,
    pub(crate) input: u64,
    pub(crate) output: u64,
}

impl PerMinute {
    /// Returns limits with input at 0.9 times the mean of the compressed trace, so that requests
    /// must wait. The other limits are much higher.
    fn of(jobs: &[Job], seconds: u64) -> Self {
        let mean = |total: u64| total as f64 * 60.0 / seconds as f64;
        let limit = |rate: f64| (rate as u64).max(1_000);
        Self {
            requests: limit(4.0 * mean(jobs.len() as u64)),
            input: limit(0.9 * mean(jobs.iter().map(|job| job.input).sum())),
            output: limit(20.0 * mean(jobs.iter().map(|job| job.output).sum())),
        }
    }

    /// Returns the input tokens that are refilled in a second.
    pub(crate) fn input_per_second(self) -> f64 {
        self.input as f64 / 60.0
    }

    /// Returns the capacity of the input bucket in tokens.
    pub(crate) fn input_capacity(self) -> f64 {
        self.input_per_second() * BURST.as_secs_f64()
    }
}

/// The last of every five requests repeats the request 600 before it, whose response may be stored.
fn repeat_questions(jobs: &mut [Job]) {
    for index in (REPEATS - 1..jobs.len()).step_by(REPEATS) {
        let at = jobs[index].at;
        if let Some(earlier) = index.checked_sub(BACK) {
            jobs[index] = Job {
                at,
                ..jobs[earlier]
            };
        }
        jobs[index].cacheable = true;
    }
}

impl Load {
    /// Creates the load of the trace, compressed into this many seconds.
    pub(crate) fn new(trace: &[Entry], seconds: u64, seed: u64, incident: Incident) -> Self {
        let run = Duration::from_secs(seconds);
        let span = trace.last().map_or(0.0, |entry| entry.at.as_secs_f64());
        let factor = if span > 0.0 {
            seconds as f64 / span
        } else {
            0.0
        };
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut jobs: Vec<Job> = trace
            .iter()
            .enumerate()
            .map(|(index, entry)| {
                let noise = 1.0 + NOISE * (2.0 * rng.f64() - 1.0);
                let prompt = (entry.input as f64 * CHARS_PER_TOKEN * noise) as usize;
                Job {
                    at: entry.at.mul_f64(factor),
                    input: entry.input,
                    output: entry.output,
                    text: prompt.saturating_sub(AROUND).max(1),
                    stream: index % 2 == 0,
                    cacheable: false,
                }
            })
            .collect();
        if incident == Incident::Outage {
            repeat_questions(&mut jobs);
        }
        let longest = jobs.iter().map(|job| job.text).max().unwrap_or(0);
        Self {
            per_minute: PerMinute::of(&jobs, seconds),
            windows: incidents::windows(incident, run, seed),
            filler: "let us count the tokens of this line; ".repeat(longest / 38 + 1),
            seed,
            incident,
            jobs,
        }
    }

    /// Starts a server with the limits and incidents of this run.
    pub(crate) fn server(&self) -> FakeClaude {
        let limits = GroupLimits::new()
            .with_requests_per_minute(self.per_minute.requests)
            .with_input_tokens_per_minute(self.per_minute.input)
            .with_output_tokens_per_minute(self.per_minute.output)
            .with_burst(BURST);
        let mut server = FakeClaude::builder()
            .limits(limits)
            .time_to_first_token(Duration::from_millis(30))
            .tokens_per_second(1_000.0)
            .bytes_per_token(CHARS_PER_TOKEN)
            .admission_noise(SERVER_NOISE)
            .seed(self.seed);
        for incident in incidents::script(self.incident, &self.windows) {
            server = server.incident(incident);
        }
        server.build()
    }

    /// Creates the request of one job. Its actual sizes are in headers that only the fake server
    /// reads.
    pub(crate) fn request(&self, index: usize, base: &str) -> Request<Bytes> {
        let job = &self.jobs[index];
        let stream = if job.stream { r#""stream":true,"# } else { "" };
        let cacheable = if job.cacheable { "true" } else { "false" };
        let max_tokens = MAX_TOKENS.max(job.output + 1);
        let body = format!(
            r#"{{"model":"{MODEL}","max_tokens":{max_tokens},{stream}"messages":[{{"role":"user","content":"{}"}}]}}"#,
            &self.filler[..job.text],
        );
        Request::post(format!("{base}/v1/messages"))
            .header("x-api-key", "storm")
            .header("anthropic-version", "2023-06-01")
            .header("content-type", "application/json")
            .header(CACHEABLE, cacheable)
            .header("x-fake-tag", index)
            .header("x-fake-input-tokens", job.input)
            .header("x-fake-output-tokens", job.output)
            .body(body.into())
            .expect("every part is valid")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower_claude_wire::Peek;

    fn trace() -> Vec<Entry> {
        let entry = |seconds, input, output| Entry {
            at: Duration::from_secs(seconds),
            input,
            output,
        };
        vec![
            entry(0, 3_000, 10),
            entry(50, 1, 0),
            entry(100, 6_000, 5_000),
        ]
    }

    #[test]
    fn arrivals_are_compressed_and_sizes_kept() {
        let load = Load::new(&trace(), 10, 7, Incident::Storm);
        let at: Vec<Duration> = load.jobs.iter().map(|job| job.at).collect();
        assert_eq!(at, [0, 5, 10].map(Duration::from_secs));
        assert_eq!(load.per_minute.input, 9_001 * 6 * 9 / 10);
        for (index, job) in load.jobs.iter().enumerate() {
            let body = load.request(index, "http://localhost").into_body();
            let peek = Peek::parse(&body).unwrap();
            assert_eq!(peek.stream(), job.stream);
            assert!(peek.max_tokens().unwrap() > job.output);
            let wanted = job.input as f64 * CHARS_PER_TOKEN;
            let off = (peek.messages_bytes() as f64 - wanted).abs();
            assert!(off <= wanted * NOISE + AROUND as f64, "{off} of {wanted}");
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_load() {
        let texts = |seed| -> Vec<usize> {
            let load = Load::new(&trace(), 10, seed, Incident::Storm);
            load.jobs.iter().map(|job| job.text).collect()
        };
        assert_eq!(texts(1), texts(1));
        assert_ne!(texts(1), texts(2));
    }

    #[test]
    fn requests_all_at_once_are_a_load_too() {
        let load = Load::new(&trace()[..1], 10, 1, Incident::Storm);
        assert_eq!(load.jobs[0].at, Duration::ZERO);
    }
}
