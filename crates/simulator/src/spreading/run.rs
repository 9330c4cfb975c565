//! One run: conversations, a strategy and three targets.

use super::{
    load::{Conversation, PREFILL},
    server::{Admitted, PERCENT, Row, Server, TARGETS},
    strategy::{CallState, RATES, Step, Strategy, StrategyKind},
};
use crate::{
    event_queue::EventQueue,
    random::{Purpose, stream},
    units::{nanos, seconds},
};

/// The most attempts of a call.
const MAX_ATTEMPTS: u32 = 5;
/// The output tokens of a second.
const SPEED: f64 = 80.0;

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpreadTally {
    pub(crate) answered: u64,
    /// Calls that got no answer after all attempts. Their conversations end.
    pub(crate) failed: u64,
    pub(crate) limited: u64,
    /// The price of all answers, and their price without a cache at the usual price.
    pub(crate) paid: f64,
    pub(crate) plain: f64,
    pub(crate) input: u64,
    pub(crate) read: u64,
    /// The times to the first content, in seconds.
    pub(crate) times: Vec<f64>,
    /// Conversations with bound thinking.
    pub(crate) bound: u64,
    /// Those of them that went to another account.
    pub(crate) broken: u64,
    /// The answers of each target.
    pub(crate) shares: [u64; TARGETS],
}

impl SpreadTally {
    /// Returns the price as a share of the price without a cache.
    pub(crate) fn cost(&self) -> f64 {
        self.paid / self.plain.max(1.0)
    }

    /// Returns the 429s for 1,000 answers.
    pub(crate) fn limited_share(&self) -> f64 {
        1_000.0 * self.limited as f64 / self.answered.max(1) as f64
    }

    pub(crate) fn failed_share(&self) -> f64 {
        1_000.0 * self.failed as f64 / self.answered.max(1) as f64
    }

    /// Returns the share of the input that was read from a cache.
    pub(crate) fn read_share(&self) -> f64 {
        self.read as f64 / self.input.max(1) as f64
    }

    /// Returns the time that 99 % of the calls do not exceed.
    pub(crate) fn p99(&self) -> f64 {
        let mut times = self.times.clone();
        times.sort_by(f64::total_cmp);
        let at = (times.len() * 99).div_ceil(100);
        times.get(at.saturating_sub(1)).copied().unwrap_or(0.0)
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Arrive(usize, usize),
    Attempt(usize),
    /// A failure has arrived.
    Failed(usize),
    FirstContent(usize),
    End(usize),
}

#[derive(Debug)]
struct Call {
    conversation: usize,
    turn: usize,
    arrived: u64,
    attempts: u32,
    target: usize,
    state: CallState,
    admitted: Option<Admitted>,
    failure: Option<tower_claude_core::Class>,
}

struct Run<'a> {
    conversations: &'a [Conversation],
    strategy: Strategy,
    servers: [Server; TARGETS],
    queue: EventQueue<Event>,
    calls: Vec<Call>,
    /// The target that made the thinking of each conversation.
    homes: Vec<Option<usize>>,
    broken: Vec<bool>,
    tally: SpreadTally,
}

/// Runs all calls before `end`.
pub(crate) fn run(
    conversations: &[Conversation],
    row: Row,
    kind: StrategyKind,
    seed: u64,
    end: u64,
) -> SpreadTally {
    let mut run = Run {
        conversations,
        strategy: Strategy::new(kind, stream(seed, Purpose::Strategy, 0)),
        servers: std::array::from_fn(|target| Server::new(target, row, end)),
        queue: EventQueue::new(),
        calls: Vec::new(),
        homes: vec![None; conversations.len()],
        broken: vec![false; conversations.len()],
        tally: SpreadTally::default(),
    };
    for (index, conversation) in conversations.iter().enumerate() {
        run.queue.add(conversation.start, Event::Arrive(index, 0));
    }
    while let Some(event) = run.queue.next(end) {
        match event {
            Event::Arrive(conversation, turn) => run.arrive(conversation, turn),
            Event::Attempt(call) => run.attempt(call),
            Event::Failed(call) => run.fail(call),
            Event::FirstContent(call) => run.first_content(call),
            Event::End(call) => run.end(call),
        }
    }
    let is_bound = conversations.iter().map(|it| it.is_bound);
    run.tally.bound = is_bound.filter(|it| *it).count() as u64;
    run.tally.broken = run.broken.iter().filter(|it| **it).count() as u64;
    run.tally
}

impl Run<'_> {
    fn arrive(&mut self, conversation: usize, turn: usize) {
        let now = self.queue.now();
        let state = self.strategy.call(&self.conversations[conversation], turn);
        self.calls.push(Call {
            conversation,
            turn,
            arrived: now,
            attempts: 0,
            target: 0,
            state,
            admitted: None,
            failure: None,
        });
        self.attempt(self.calls.len() - 1);
    }

    fn attempt(&mut self, index: usize) {
        let now = self.queue.now();
        let call = &mut self.calls[index];
        let conversation = &self.conversations[call.conversation];
        let step = self
            .strategy
            .choose(&mut call.state, conversation, call.turn, now);
        match step {
            Step::Wait(until) => self.queue.add(until, Event::Attempt(index)),
            Step::GiveUp => self.tally.failed += 1,
            Step::Send(target) => {
                (call.target, call.attempts) = (target, call.attempts + 1);
                let turn = &conversation.turns[call.turn];
                let prompt = conversation.prompt(call.turn);
                match self.servers[target].start(now, prompt) {
                    Ok(admitted) => {
                        let total = prompt.last().map_or(0, |block| block.tokens);
                        let fresh = (total - admitted.tokens.read) as f64;
                        let first = now + turn.first_content + nanos(fresh / PREFILL);
                        call.admitted = Some(admitted);
                        self.queue.add(first, Event::FirstContent(index));
                        let output = nanos(turn.output as f64 / SPEED);
                        self.queue.add(first + output, Event::End(index));
                    }
                    Err(class) => {
                        let at = now + Server::time_of_failure(&class);
                        call.failure = Some(class);
                        self.queue.add(at, Event::Failed(index));
                    }
                }
            }
        }
    }

    fn fail(&mut self, index: usize) {
        let now = self.queue.now();
        let call = &mut self.calls[index];
        let Some(class) = call.failure.take() else {
            return;
        };
        self.tally.limited += u64::from(class.is_rate_limit());
        let (target, attempts) = (call.target, call.attempts);
        let wait = self
            .strategy
            .fail(&mut call.state, target, &class, attempts, now);
        match wait.filter(|_| attempts < MAX_ATTEMPTS) {
            Some(wait) => self.queue.add(now + nanos(wait), Event::Attempt(index)),
            None => self.tally.failed += 1,
        }
    }

    fn first_content(&mut self, index: usize) {
        let now = self.queue.now();
        let call = &mut self.calls[index];
        let conversation = &self.conversations[call.conversation];
        let Some(admitted) = &mut call.admitted else {
            return;
        };
        let write = std::mem::take(&mut admitted.write);
        self.servers[call.target].begin_response(now, write);
        let (target, turn, limits) = (call.target, call.turn, admitted.limits.as_ref());
        self.strategy
            .answered(&call.state, target, conversation, turn, limits, now);
        self.tally.times.push(seconds(now - call.arrived));
        if conversation.is_bound {
            let home = self.homes[call.conversation].get_or_insert(target);
            if *home != target {
                self.broken[call.conversation] = true;
            }
        }
    }

    fn end(&mut self, index: usize) {
        let now = self.queue.now();
        let call = &mut self.calls[index];
        let conversation = &self.conversations[call.conversation];
        let turn = &conversation.turns[call.turn];
        let Some(admitted) = call.admitted.take() else {
            return;
        };
        let prompt = conversation.prompt(call.turn);
        let total = prompt.last().map_or(0, |block| block.tokens);
        let (target, tokens) = (call.target, admitted.tokens);
        self.servers[target].end(now, &admitted, turn.output);
        self.strategy
            .end(&mut call.state, target, tokens, total, turn.output, now);
        let plain = total - tokens.read - tokens.written();
        let price = |tokens: u64, rate: u64| tokens as f64 * rate as f64;
        let output = price(turn.output, RATES.output);
        let paid = price(plain, RATES.input)
            + price(tokens.written(), RATES.cache_write_5m)
            + price(tokens.read, RATES.cache_read)
            + output;
        let tally = &mut self.tally;
        tally.answered += 1;
        tally.shares[target] += 1;
        tally.paid += paid * f64::from(PERCENT[target]) / 100.0;
        tally.plain += price(total, RATES.input) + output;
        tally.input += total;
        tally.read += tokens.read;
        let (conversation, next) = (call.conversation, call.turn + 1);
        if let Some(turn) = self.conversations[conversation].turns.get(next) {
            self.queue
                .add(now + turn.gap, Event::Arrive(conversation, next));
        }
    }
}
