//! The loads. They are invented, by the kinds of traffic that are reported to gain or to lose by
//! markers.

use tower_claude_wire::BlockKind;

use super::traffic::{Conversation, ConversationBuilder, mix};
use crate::{
    random::{Purpose, exponential, lognormal, stream},
    units::{MINUTE, SECOND, nanos},
};

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    Agents,
    Rag,
    OneShot,
    Stamped,
    FanOut,
    Chats,
    Mix,
}

/// All loads, in the order of the table.
pub(crate) const LOADS: [Load; 7] = [
    Load::Agents,
    Load::Rag,
    Load::OneShot,
    Load::Stamped,
    Load::FanOut,
    Load::Chats,
    Load::Mix,
];

/// The requests of one fan-out.
const FAN_OUT: usize = 24;
/// The most tokens of its document. The first content of a longer one comes after the time for
/// which the gate holds requests.
const MOST_FAN_OUT: u64 = 40_000;
/// The documents of the retrieval.
const DOCUMENTS: usize = 400;

impl Load {
    pub(crate) const fn id(self) -> &'static str {
        match self {
            Self::Agents => "C1",
            Self::Rag => "C2",
            Self::OneShot => "C3",
            Self::Stamped => "C4",
            Self::FanOut => "C5",
            Self::Chats => "C6",
            Self::Mix => "C7",
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Agents => "agent loops, shared tools",
            Self::Rag => "RAG, Zipf over 400 documents",
            Self::OneShot => "one-shot documents",
            Self::Stamped => "time stamp in front",
            Self::FanOut => "fan-out of 24 over one document",
            Self::Chats => "chats with 15 min gaps",
            Self::Mix => "mix of the six",
        }
    }

    /// Returns the conversations that begin before `end`.
    pub(crate) fn conversations(self, seed: u64, end: u64) -> Vec<Conversation> {
        let single = [
            Self::Agents,
            Self::Rag,
            Self::OneShot,
            Self::Stamped,
            Self::FanOut,
            Self::Chats,
        ];
        if self == Self::Mix {
            let loads = single.iter();
            return loads
                .flat_map(|load| load.conversations(seed, end))
                .collect();
        }
        let mut source = Source::new(self, seed);
        let mean = self.mean_interval();
        let mut all = Vec::new();
        let mut at = exponential(&mut source.rng, mean);
        while nanos(at) < end {
            source.add(nanos(at), &mut all);
            at += exponential(&mut source.rng, mean);
        }
        all
    }

    /// Returns the mean time between two conversations, in seconds.
    const fn mean_interval(self) -> f64 {
        match self {
            Self::Agents => 120.0,
            Self::Rag => 2.5,
            Self::OneShot => 4.0,
            Self::Stamped => 3.0,
            Self::FanOut => 150.0,
            Self::Chats => 12.0,
            Self::Mix => 0.0,
        }
    }
}

/// A generator of conversations.
struct Source {
    load: Load,
    rng: fastrand::Rng,
    /// The cumulative weights of the documents.
    weights: Vec<f64>,
    /// Salt of all contents, so that loads share none.
    salt: u64,
    contents: u64,
}

impl Source {
    fn new(load: Load, seed: u64) -> Self {
        let mut sum = 0.0;
        let weights = (1..=DOCUMENTS).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Self {
            load,
            rng: stream(seed, Purpose::Arrivals, load as usize),
            weights: weights.collect(),
            salt: mix(load as u64 + 1),
            contents: 0,
        }
    }

    /// Adds the conversations of one arrival.
    fn add(&mut self, at: u64, all: &mut Vec<Conversation>) {
        match self.load {
            Load::Agents => all.push(self.agent(at)),
            Load::Rag => all.push(self.retrieval(at)),
            Load::OneShot => all.push(self.one_shot(at)),
            Load::Stamped => all.push(self.stamped(at)),
            Load::FanOut => self.fan_out(at, all),
            Load::Chats => all.push(self.chat(at)),
            Load::Mix => {}
        }
    }

    /// Returns a content that no other block has.
    fn unique(&mut self) -> u64 {
        self.contents += 1;
        mix(self.salt ^ self.contents) | 1 << 63
    }

    /// Returns a content that all blocks with this number have.
    fn shared(&self, number: u64) -> u64 {
        mix(self.salt ^ number << 32) & !(1 << 63)
    }

    /// Returns a size in tokens.
    fn size(&mut self, mean: f64, sigma: f64) -> u64 {
        lognormal(&mut self.rng, mean, sigma) as u64 + 1
    }

    /// Adds a request. `output` is the mean length of the response in seconds.
    fn step(&mut self, builder: &mut ConversationBuilder, gap: u64, output: f64) {
        let first = 0.4 + exponential(&mut self.rng, 0.2);
        let output = 1.0 + exponential(&mut self.rng, output);
        builder.step(gap, nanos(first), nanos(output));
    }

    /// Twelve tools for all agents, a system prompt for each of three kinds, and turns with calls.
    fn agent(&mut self, at: u64) -> Conversation {
        let mut builder = ConversationBuilder::new(at);
        for tool in 0..12 {
            builder.tool(self.shared(tool), 300 + 50 * tool);
        }
        let kind = self.rng.u64(0..3);
        builder.system(self.shared(100 + kind), 2_000 + 300 * kind);
        let (task, size) = (self.unique(), self.size(800.0, 0.6));
        builder.message(0, BlockKind::Text, task, size);
        let turns = 5 + exponential(&mut self.rng, 20.0) as usize;
        for turn in 0..turns.min(80) {
            let gap = if turn == 0 {
                0
            } else if self.rng.f64() < 0.015 {
                // A person is asked.
                nanos(lognormal(&mut self.rng, 240.0, 1.0))
            } else {
                nanos(exponential(&mut self.rng, 6.0))
            };
            self.step(&mut builder, gap, 5.0);
            let message = 2 * turn + 1;
            let (text, size) = (self.unique(), self.size(80.0, 0.5));
            builder.message(message, BlockKind::Text, text, size);
            let calls = 1 + exponential(&mut self.rng, 1.0) as usize;
            for _ in 0..calls.min(8) {
                let (call, size) = (self.unique(), self.size(90.0, 0.7));
                builder.message(message, BlockKind::ToolUse, call, size);
            }
            for _ in 0..calls.min(8) {
                let (result, size) = (self.unique(), self.size(600.0, 1.0));
                builder.message(message + 1, BlockKind::ToolResult, result, size);
            }
        }
        builder.build()
    }

    /// A system prompt, one of the documents by Zipf's law, and a question.
    fn retrieval(&mut self, at: u64) -> Conversation {
        let total = self.weights.last().copied().unwrap_or(1.0);
        let drawn = self.rng.f64() * total;
        let document = self.weights.partition_point(|weight| *weight < drawn) as u64;
        // The size belongs to the document.
        let mut sizes = fastrand::Rng::with_seed(mix(self.salt ^ document));
        let size = lognormal(&mut sizes, 5_000.0, 0.5) as u64 + 1;
        let mut builder = ConversationBuilder::new(at);
        builder.system(self.shared(0), 1_500);
        builder.message(0, BlockKind::Document, self.shared(1 + document), size);
        let (question, size) = (self.unique(), self.size(60.0, 0.5));
        builder.message(0, BlockKind::Text, question, size);
        self.step(&mut builder, 0, 4.0);
        builder.build()
    }

    /// A short system prompt and a document that comes once.
    fn one_shot(&mut self, at: u64) -> Conversation {
        let mut builder = ConversationBuilder::new(at);
        builder.system(self.shared(0), 600);
        let (document, size) = (self.unique(), self.size(8_000.0, 0.6));
        builder.message(0, BlockKind::Document, document, size);
        builder.message(0, BlockKind::Text, self.shared(1), 60);
        self.step(&mut builder, 0, 4.0);
        builder.build()
    }

    /// A system prompt that begins with the time, and a question.
    fn stamped(&mut self, at: u64) -> Conversation {
        let mut builder = ConversationBuilder::new(at);
        let stamp = self.unique();
        builder.system(stamp, 20);
        builder.system(self.shared(0), 3_000);
        let (question, size) = (self.unique(), self.size(500.0, 0.8));
        builder.message(0, BlockKind::Text, question, size);
        self.step(&mut builder, 0, 4.0);
        builder.build()
    }

    /// Questions about one document at the same time.
    fn fan_out(&mut self, at: u64, all: &mut Vec<Conversation>) {
        let (document, size) = (self.unique(), self.size(20_000.0, 0.3));
        let size = size.min(MOST_FAN_OUT);
        for _ in 0..FAN_OUT {
            let late = nanos(exponential(&mut self.rng, 0.1));
            let mut builder = ConversationBuilder::new(at + late);
            builder.system(self.shared(0), 300);
            builder.message(0, BlockKind::Document, document, size);
            let (question, size) = (self.unique(), self.size(80.0, 0.5));
            builder.message(0, BlockKind::Text, question, size);
            self.step(&mut builder, 0, 8.0);
            all.push(builder.build());
        }
    }

    /// A conversation with long pauses.
    fn chat(&mut self, at: u64) -> Conversation {
        let mut builder = ConversationBuilder::new(at);
        builder.system(self.shared(0), 1_500);
        let (first, size) = (self.unique(), self.size(1_500.0, 0.8));
        builder.message(0, BlockKind::Text, first, size);
        let turns = 3 + exponential(&mut self.rng, 6.0) as usize;
        for turn in 0..turns.min(30) {
            let gap = match turn {
                0 => 0,
                _ => nanos(lognormal(&mut self.rng, 900.0, 0.9)).max(10 * SECOND),
            };
            self.step(&mut builder, gap.min(180 * MINUTE), 6.0);
            let message = 2 * turn + 1;
            let (answer, size) = (self.unique(), self.size(400.0, 0.6));
            builder.message(message, BlockKind::Text, answer, size);
            let (question, size) = (self.unique(), self.size(150.0, 0.8));
            builder.message(message + 1, BlockKind::Text, question, size);
        }
        builder.build()
    }
}
