//! One run: a load, a strategy and the server's cache.

use std::collections::HashMap;

use tower_claude_fake_claude::model::{
    CacheMarker, CacheTokens, CacheWrite, MarkerError, PromptCache,
};

use super::{
    prices::Prices,
    strategy::{Planned, Strategy, StrategyKind},
    traffic::{Conversation, mix},
};
use crate::{
    event_queue::EventQueue,
    units::{MINUTE, nanos, seconds},
};

/// The tokens that the server reads a second, up to the first content.
const PREFILL: f64 = 25_000.0;

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct CacheTally {
    pub(crate) requests: u64,
    /// All input tokens.
    pub(crate) total: u64,
    pub(crate) read: u64,
    pub(crate) written_5m: u64,
    pub(crate) written_1h: u64,
    /// The tokens that count against the input limit, by minute.
    pub(crate) counted: Vec<u64>,
    /// The waits at the gate in seconds, of requests that waited.
    pub(crate) waits: Vec<f64>,
    /// The requests that were sent: time, conversation and number of blocks.
    pub(crate) sent: Vec<(u64, usize, usize)>,
}

impl CacheTally {
    /// Returns the price of the input as a share of its price without a cache.
    pub(crate) fn cost(&self, prices: &Prices) -> f64 {
        let plain = self.total - self.read - self.written_5m - self.written_1h;
        let cost = plain as f64
            + prices.read * self.read as f64
            + prices.write_5m * self.written_5m as f64
            + prices.write_1h * self.written_1h as f64;
        cost / self.total.max(1) as f64
    }

    /// Returns the share of the input that counts against the input limit.
    pub(crate) fn counted_share(&self) -> f64 {
        1.0 - self.read as f64 / self.total.max(1) as f64
    }

    /// Returns the most tokens of a minute that count against the input limit.
    pub(crate) fn peak(&self) -> u64 {
        self.counted.iter().copied().max().unwrap_or(0)
    }

    /// Returns the mean wait of the requests that waited, in seconds.
    pub(crate) fn mean_wait(&self) -> f64 {
        self.waits.iter().sum::<f64>() / self.waits.len().max(1) as f64
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The next request of a conversation: its index and the step.
    Arrive(usize, usize),
    /// A follower asks again, at the time that was given.
    Poll(usize),
    FirstContent(usize),
    End(usize),
}

#[derive(Debug)]
struct Request {
    conversation: usize,
    step: usize,
    arrived: u64,
    is_sent: bool,
    store: usize,
    id: Option<u64>,
    markers: Vec<CacheMarker>,
    tokens: CacheTokens,
    write: CacheWrite,
}

struct Run<'a> {
    conversations: &'a [Conversation],
    strategy: Strategy,
    /// The stores of the server, which share no entry.
    stores: Vec<PromptCache>,
    least_tokens: u64,
    queue: EventQueue<Event>,
    requests: Vec<Request>,
    /// The index of the request of each number of the planner.
    by_id: HashMap<u64, usize>,
    tally: CacheTally,
}

/// Sends all requests before `end`.
///
/// # Errors
///
/// Returns the rule that the markers of the strategy break.
pub(crate) fn run(
    conversations: &[Conversation],
    kind: StrategyKind,
    prices: &Prices,
    end: u64,
) -> Result<CacheTally, MarkerError> {
    let mut run = Run {
        conversations,
        strategy: Strategy::new(kind, prices),
        stores: vec![PromptCache::new(); prices.stores.max(1)],
        least_tokens: prices.least_tokens,
        queue: EventQueue::new(),
        requests: Vec::new(),
        by_id: HashMap::new(),
        tally: CacheTally::default(),
    };
    for (index, conversation) in conversations.iter().enumerate() {
        run.queue.add(conversation.start, Event::Arrive(index, 0));
    }
    while let Some(event) = run.queue.next(end) {
        match event {
            Event::Arrive(conversation, step) => run.arrive(conversation, step)?,
            Event::Poll(request) => run.poll(request),
            Event::FirstContent(request) => run.first_content(request),
            Event::End(request) => run.end(request),
        }
    }
    Ok(run.tally)
}

impl Run<'_> {
    fn arrive(&mut self, conversation: usize, step: usize) -> Result<(), MarkerError> {
        let now = self.queue.now();
        let end = self.conversations[conversation].steps[step].end;
        let planned = self
            .strategy
            .start(&self.conversations[conversation], end, now);
        let Planned {
            id,
            markers,
            wait_until,
        } = planned;
        CacheMarker::check(&markers)?;
        let index = self.requests.len();
        if let Some(id) = id {
            self.by_id.insert(id, index);
        }
        self.requests.push(Request {
            conversation,
            step,
            arrived: now,
            is_sent: false,
            store: 0,
            id,
            markers,
            tokens: CacheTokens::default(),
            write: CacheWrite::default(),
        });
        match wait_until {
            None => self.send(index),
            Some(until) => self.queue.add(until, Event::Poll(index)),
        }
        Ok(())
    }

    fn poll(&mut self, index: usize) {
        let request = &self.requests[index];
        let Some(id) = request.id.filter(|_| !request.is_sent) else {
            return;
        };
        match self.strategy.poll(id, self.queue.now()) {
            None => self.send(index),
            Some(until) => self.queue.add(until, Event::Poll(index)),
        }
    }

    fn send(&mut self, index: usize) {
        let now = self.queue.now();
        let request = &mut self.requests[index];
        let conversation = &self.conversations[request.conversation];
        let step = conversation.steps[request.step];
        let blocks = &conversation.blocks[..step.end];
        // The same for every strategy.
        let place = mix((request.conversation as u64) << 20 | request.step as u64);
        request.store = place as usize % self.stores.len();
        let (tokens, write) =
            self.stores[request.store].start(now, blocks, &request.markers, self.least_tokens);
        (request.tokens, request.write, request.is_sent) = (tokens, write, true);
        let total = blocks.last().map_or(0, |block| block.tokens);
        let counted = total - tokens.read;
        let tally = &mut self.tally;
        tally.requests += 1;
        tally.total += total;
        tally.read += tokens.read;
        tally.written_5m += tokens.written_5m;
        tally.written_1h += tokens.written_1h;
        let minute = usize::try_from(now / MINUTE).unwrap_or(usize::MAX);
        if tally.counted.len() <= minute {
            tally.counted.resize(minute + 1, 0);
        }
        tally.counted[minute] += counted;
        if now > request.arrived {
            tally.waits.push(seconds(now - request.arrived));
        }
        tally.sent.push((now, request.conversation, step.end));
        let first = step.first_content + nanos(counted as f64 / PREFILL);
        self.queue.add(now + first, Event::FirstContent(index));
        self.queue.add(now + first + step.output, Event::End(index));
    }

    fn first_content(&mut self, index: usize) {
        let now = self.queue.now();
        let request = &mut self.requests[index];
        let write = std::mem::take(&mut request.write);
        self.stores[request.store].begin_response(now, write);
        for id in self.strategy.first_content(request.id, now) {
            if let Some(follower) = self.by_id.get(&id) {
                self.queue.add(now, Event::Poll(*follower));
            }
        }
    }

    fn end(&mut self, index: usize) {
        let now = self.queue.now();
        let request = &self.requests[index];
        let (conversation, step) = (request.conversation, request.step);
        let steps = &self.conversations[conversation].steps;
        let blocks = &self.conversations[conversation].blocks[..steps[step].end];
        let total = blocks.last().map_or(0, |block| block.tokens);
        self.strategy.end(request.id, request.tokens, total, now);
        if let Some(next) = steps.get(step + 1) {
            self.queue
                .add(now + next.gap, Event::Arrive(conversation, step + 1));
        }
    }
}
