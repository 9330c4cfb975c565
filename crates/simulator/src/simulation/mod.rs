//! The simulation of clients, network and server in virtual time.

mod at_server;
mod events;
mod server;
mod tally;
mod watch;

use std::collections::VecDeque;

use crate::{
    client::{Action, Head, JobId, Strategy},
    event_queue::EventQueue,
    random::{Purpose, stream},
    setup::Setup,
    units::SECOND,
    workload::{Class, Sizes, Source, When},
};

pub(crate) use server::{STREAM, Server};
pub(crate) use tally::{Sample, Tally};

/// An event of the simulation. A server event causes the client's event after a network delay.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A client has a new request from one of its sources.
    Submit { client: u32, source: u32 },
    /// A request reaches the server.
    Arrive(JobId),
    /// The server starts the response.
    Stream(JobId),
    /// The response head reaches the client.
    Deliver(JobId),
    /// The client reports its received output.
    Progress(JobId),
    /// The server has produced the complete response.
    Finish(JobId),
    /// The end of a response reaches the client.
    Done(JobId),
    /// The timer of a client expires.
    Wake(u32),
    /// The first request of the oracle's queue may be admitted.
    OracleQueue,
    /// The warm-up ends.
    WarmUpEnd,
    /// The limits change.
    Change,
    /// A clock fails.
    Fault,
    /// A sample is taken.
    Sample,
}

/// A request with all its attempts.
#[derive(Debug)]
struct Job {
    client: u32,
    source: u32,
    class: Class,
    sizes: Sizes,
    /// Time from admission to the first output.
    think: u64,
    submitted: u64,
    sent: u64,
    arrived: u64,
    streaming: u64,
    delivered: u64,
    attempts: u32,
    /// Count of output tokens at which the client reports next.
    report: u64,
    head: Head,
}

struct Client {
    strategy: Box<dyn Strategy>,
    sources: Vec<Source>,
    /// Number of requests of each source so far.
    counts: Vec<u64>,
    sizes: fastrand::Rng,
    arrivals: fastrand::Rng,
    counted: bool,
    /// Time of the earliest wake event in the queue.
    armed: u64,
    /// Time by which its clock is late.
    behind: u64,
    /// End of its suspension.
    asleep_until: u64,
}

/// The complete state of one run.
pub(crate) struct Simulation {
    setup: Setup,
    events: EventQueue<Event>,
    server: Server,
    clients: Vec<Client>,
    jobs: Vec<Job>,
    free: Vec<JobId>,
    io: Action,
    network: fastrand::Rng,
    oracle_queue: VecDeque<JobId>,
    /// Output tokens of all requests that the oracle's queue has admitted.
    promised: u64,
    has_oracle_queue: bool,
    measuring: bool,
    date_off: i64,
    reset_off: i64,
    tally: Tally,
    /// Requests, input tokens admitted and output tokens produced since the warm-up.
    charged: [u64; 3],
    /// Requests in flight, and the output of responses whose end has reached the client.
    flight: watch::Flight,
    settled: u64,
    last_admission: u64,
    second: (u32, u32),
}

impl Simulation {
    pub(crate) fn new(setup: Setup) -> Self {
        let seed = setup.seed;
        let parties = setup.clients.len();
        let client = |(index, party): (usize, &crate::setup::ClientSpec)| Client {
            strategy: party.kind.start(party.told, parties, seed, index),
            counts: vec![0; party.sources.len()],
            sources: party.sources.clone(),
            sizes: stream(seed, Purpose::Sizes, index),
            arrivals: stream(seed, Purpose::Arrivals, index),
            counted: party.counted,
            armed: u64::MAX,
            behind: 0,
            asleep_until: 0,
        };
        Self {
            clients: setup.clients.iter().enumerate().map(client).collect(),
            // The oracle's queue only tests for admission, so a failed test must not cost a
            // request.
            server: Server::new(
                setup.quota,
                setup.burst,
                setup.switches.refused_cost && !setup.has_oracle_queue(),
            ),
            events: EventQueue::new(),
            jobs: Vec::new(),
            free: Vec::new(),
            io: Action::default(),
            network: stream(seed, Purpose::Network, 0),
            oracle_queue: VecDeque::new(),
            promised: 0,
            has_oracle_queue: setup.has_oracle_queue(),
            measuring: false,
            date_off: 0,
            reset_off: 0,
            tally: Tally {
                tokens: vec![0; parties],
                ..Tally::default()
            },
            charged: [0; 3],
            flight: watch::Flight::default(),
            settled: 0,
            last_admission: 0,
            second: (0, 0),
            setup,
        }
    }

    /// Runs the simulation to its end.
    pub(crate) fn run(mut self) -> Tally {
        self.begin();
        let end = self.setup.end();
        while let Some(event) = self.events.next(end) {
            self.handle(event);
        }
        self.server.gauges(end);
        self.charged[2] = self.server.produced - self.charged[2];
        let allowance = self.setup.allowance();
        let mut tally = self.tally;
        tally.used = std::array::from_fn(|index| self.charged[index] as f64 / allowance[index]);
        let mut counted = self.clients.iter().map(|client| client.counted);
        tally.tokens.retain(|_| counted.next() == Some(true));
        tally.longest_gap = tally
            .longest_gap
            .max(end.saturating_sub(self.last_admission));
        tally
    }

    fn begin(&mut self) {
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            for (number, source) in client.sources.iter().enumerate() {
                let event = Event::Submit {
                    client: index as u32,
                    source: number as u32,
                };
                match source.when {
                    When::Closed(workers) => {
                        // Spread over a second.
                        for _ in 0..workers {
                            self.events.add(client.arrivals.u64(..SECOND), event);
                        }
                    }
                    _ => {
                        let first = source.next(0, 0, &mut client.arrivals);
                        self.events.add(first.unwrap_or(0), event);
                    }
                }
            }
        }
        self.events.add(self.setup.warm_up, Event::WarmUpEnd);
        if let Some((at, _)) = self.setup.change {
            self.events.add(at, Event::Change);
        }
        if let Some((at, _)) = self.setup.fault {
            self.events.add(at, Event::Fault);
        }
        if self.setup.sample > 0 {
            self.events.add(SECOND, Event::Sample);
        }
    }
}
