//! A durable queue over Redis Streams: one stream for each priority, one consumer group of all
//! workers, one hash of answers.
//!
//! An entry is pending from its delivery to its acknowledgement. A worker renews its pending
//! entries while it works on them. An entry that was not renewed belongs to a dead worker, and
//! another one claims it. The answer is stored and the entry is acknowledged in one transaction, so
//! a job is either answered or pending at any time.

use std::time::Duration;

use redis::{
    AsyncCommands, Client, RedisResult,
    aio::MultiplexedConnection,
    streams::{
        StreamClaimOptions, StreamClaimReply, StreamId, StreamPendingCountReply, StreamReadOptions,
        StreamReadReply,
    },
};
use tower_claude_core::Priority;

/// The priorities, the most urgent first, with their streams. The hash tag keeps all keys on one
/// node of a cluster.
pub(crate) const STREAMS: [(Priority, &str); 3] = [
    (Priority::Interactive, "{jobs}:interactive"),
    (Priority::Normal, "{jobs}:normal"),
    (Priority::Batch, "{jobs}:batch"),
];
const GROUP: &str = "workers";
/// Answers by the number of the job.
const ANSWERS: &str = "{jobs}:answers";
/// The number of all jobs.
const TOTAL: &str = "{jobs}:total";
/// The number of answers that came after another one.
const LATE: &str = "{jobs}:late";
/// Time after which an entry that was not renewed belongs to a dead worker.
const DEAD_AFTER: Duration = Duration::from_secs(5);
/// Interval at which a worker renews its entries.
pub(crate) const RENEW_EVERY: Duration = Duration::from_millis(500);
/// Deliveries after which a job is given up, because it may be what ends its workers.
const MAX_DELIVERIES: usize = 5;

/// A connection to the queue.
#[derive(Clone)]
pub(crate) struct Queue {
    redis: MultiplexedConnection,
    worker: String,
}

/// A job to work on.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The index of its priority in [`STREAMS`].
    pub(crate) level: usize,
    /// The id of its entry.
    entry: String,
    pub(crate) number: String,
    pub(crate) prompt: String,
    /// True if another worker had it first.
    pub(crate) is_claimed: bool,
}

impl Queue {
    /// Connects as this worker.
    pub(crate) async fn open(url: &str, worker: &str) -> RedisResult<Self> {
        let redis = Client::open(url)?
            .get_multiplexed_async_connection()
            .await?;
        let worker = worker.to_owned();
        Ok(Self { redis, worker })
    }

    /// Fills an empty queue with jobs: the index of a priority, and a prompt.
    pub(crate) async fn fill(&mut self, jobs: &[(usize, String)]) -> RedisResult<()> {
        let mut pipe = redis::pipe();
        for (_, stream) in STREAMS {
            pipe.xgroup_create_mkstream(stream, GROUP, "0").ignore();
        }
        pipe.set(TOTAL, jobs.len()).ignore();
        for (number, (level, prompt)) in jobs.iter().enumerate() {
            let fields = [("number", &*number.to_string()), ("prompt", prompt)];
            pipe.xadd(STREAMS[*level].1, "*", &fields).ignore();
        }
        pipe.query_async(&mut self.redis).await
    }

    /// Returns the next job of this priority that no worker has.
    pub(crate) async fn next(&mut self, level: usize) -> RedisResult<Option<Job>> {
        let options = StreamReadOptions::default()
            .group(GROUP, &self.worker)
            .count(1);
        let reply: Option<StreamReadReply> = self
            .redis
            .xread_options(&[STREAMS[level].1], &[">"], &options)
            .await?;
        let entries = reply
            .into_iter()
            .flat_map(|reply| reply.keys)
            .flat_map(|key| key.ids);
        Ok(entries.filter_map(|entry| job(level, &entry, false)).next())
    }

    /// Returns a job of this priority whose worker is dead.
    pub(crate) async fn claim(&mut self, level: usize) -> RedisResult<Option<Job>> {
        let stream = STREAMS[level].1;
        let dead_after = DEAD_AFTER.as_millis() as usize;
        let pending: StreamPendingCountReply = redis::cmd("XPENDING")
            .arg(&[stream, GROUP, "IDLE"])
            .arg(dead_after)
            .arg(&["-", "+", "1"])
            .query_async(&mut self.redis)
            .await?;
        let Some(found) = pending.ids.first() else {
            return Ok(None);
        };
        // Of several workers that found it, the first one gets it.
        let reply: StreamClaimReply = self
            .redis
            .xclaim(stream, GROUP, &self.worker, dead_after, &[&found.id])
            .await?;
        let Some(job) = reply.ids.first().and_then(|entry| job(level, entry, true)) else {
            return Ok(None);
        };
        if found.times_delivered >= MAX_DELIVERIES {
            self.finish(&job, "given up").await?;
            return Ok(None);
        }
        Ok(Some(job))
    }

    /// Renews the entries of these jobs.
    pub(crate) async fn renew(&mut self, jobs: &[Job]) -> RedisResult<()> {
        let mut pipe = redis::pipe();
        for job in jobs {
            let stream = STREAMS[job.level].1;
            let options = StreamClaimOptions::default().with_justid();
            pipe.xclaim_options(stream, GROUP, &self.worker, 0, &[&job.entry], options);
            pipe.ignore();
        }
        if jobs.is_empty() {
            return Ok(());
        }
        pipe.query_async(&mut self.redis).await
    }

    /// Stores the answer of a job and acknowledges its entry. The first answer stays.
    pub(crate) async fn finish(&mut self, job: &Job, text: &str) -> RedisResult<()> {
        let claimed = if job.is_claimed { "claimed" } else { "own" };
        let answer = format!("{}\t{}\t{claimed}\t{text}", self.worker, job.level);
        let stream = STREAMS[job.level].1;
        let mut pipe = redis::pipe();
        pipe.atomic()
            .hset_nx(ANSWERS, &job.number, answer)
            .xack(stream, GROUP, &[&job.entry])
            .ignore()
            .xdel(stream, &[&job.entry])
            .ignore();
        let (is_first,): (bool,) = pipe.query_async(&mut self.redis).await?;
        if !is_first {
            let () = self.redis.incr(LATE, 1).await?;
        }
        Ok(())
    }

    /// Returns the numbers of answers and of jobs.
    pub(crate) async fn progress(&mut self) -> RedisResult<(u64, u64)> {
        redis::pipe()
            .hlen(ANSWERS)
            .get(TOTAL)
            .query_async(&mut self.redis)
            .await
    }

    /// Returns all answers: worker, index of the priority, `own` or `claimed`, text. And the number
    /// of answers that came after another one.
    pub(crate) async fn answers(&mut self) -> RedisResult<(Vec<[String; 4]>, u64)> {
        let answers: Vec<String> = self.redis.hvals(ANSWERS).await?;
        let late: Option<u64> = self.redis.get(LATE).await?;
        let split = |answer: &String| {
            let mut parts = answer.splitn(4, '\t').map(str::to_owned);
            std::array::from_fn(|_| parts.next().unwrap_or_default())
        };
        Ok((answers.iter().map(split).collect(), late.unwrap_or(0)))
    }
}

fn job(level: usize, entry: &StreamId, is_claimed: bool) -> Option<Job> {
    Some(Job {
        level,
        entry: entry.id.clone(),
        number: entry.get("number")?,
        prompt: entry.get("prompt")?,
        is_claimed,
    })
}
