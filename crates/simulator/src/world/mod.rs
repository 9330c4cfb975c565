//! Clients, network and server in one virtual time.

mod at_server;
mod events;
mod server;
mod tally;
mod watch;

use std::collections::VecDeque;

use crate::{
    client::{Head, Io, JobId, Strategy},
    engine::Agenda,
    random::{Purpose, stream},
    setup::Setup,
    units::SECOND,
    workload::{Class, Sizes, Source, When},
};

pub(crate) use server::{STREAM, Server};
pub(crate) use tally::{Sample, Tally};

/// What happens. The server's events bring those of the clients about, a network delay later.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A client has a new request, from one of its sources.
    Submit { client: u32, source: u32 },
    /// A request reaches the server.
    Arrive(JobId),
    /// The server begins to answer.
    Stream(JobId),
    /// The head of a response reaches the client.
    Deliver(JobId),
    /// The client reports output seen.
    Progress(JobId),
    /// The server has produced the whole answer.
    Finish(JobId),
    /// The end of an answer reaches the client.
    Done(JobId),
    /// A client wanted to be woken.
    Wake(u32),
    /// The first of those who wait at the door may fit.
    Door,
    /// The warm-up ends.
    Mark,
    /// The limits change.
    Change,
    /// A clock fails.
    Fault,
    /// A picture is taken.
    Sample,
}

/// A request, in all its attempts.
#[derive(Debug)]
struct Job {
    client: u32,
    source: u32,
    class: Class,
    sizes: Sizes,
    /// From admission to the first output.
    think: u64,
    submitted: u64,
    sent: u64,
    arrived: u64,
    streaming: u64,
    delivered: u64,
    attempts: u32,
    /// The next count of output tokens that the client reports.
    report: u64,
    head: Head,
}

struct Client {
    strategy: Box<dyn Strategy>,
    sources: Vec<Source>,
    /// Requests of each source so far.
    counts: Vec<u64>,
    sizes: fastrand::Rng,
    arrivals: fastrand::Rng,
    counted: bool,
    /// The earliest wake on the agenda.
    armed: u64,
    /// How far its clock is behind.
    behind: u64,
    /// Nothing reaches it before this.
    asleep_until: u64,
}

/// Everything there is.
pub(crate) struct World {
    setup: Setup,
    agenda: Agenda<Event>,
    server: Server,
    clients: Vec<Client>,
    jobs: Vec<Job>,
    free: Vec<JobId>,
    io: Io,
    network: fastrand::Rng,
    door: VecDeque<JobId>,
    /// Output tokens of all that the door has let in.
    promised: u64,
    has_door: bool,
    measuring: bool,
    date_off: i64,
    reset_off: i64,
    tally: Tally,
    /// Requests, input tokens admitted and output tokens produced since the warm-up.
    charged: [u64; 3],
    /// What is on its way, and the output of answers whose end their clients have seen.
    flight: watch::Flight,
    settled: u64,
    last_admission: u64,
    second: (u32, u32),
}

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        let seed = setup.seed;
        let parties = setup.parties.len();
        let client = |(index, party): (usize, &crate::setup::Party)| Client {
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
            clients: setup.parties.iter().enumerate().map(client).collect(),
            // Nobody is refused at the door; it only looks whether it may open.
            server: Server::new(
                setup.quota,
                setup.burst,
                setup.switches.refused_cost && !setup.has_door(),
            ),
            agenda: Agenda::new(),
            jobs: Vec::new(),
            free: Vec::new(),
            io: Io::default(),
            network: stream(seed, Purpose::Network, 0),
            door: VecDeque::new(),
            promised: 0,
            has_door: setup.has_door(),
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

    /// Runs to the end.
    pub(crate) fn run(mut self) -> Tally {
        self.begin();
        let end = self.setup.end();
        while let Some(event) = self.agenda.next(end) {
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
                        // Not all in one instant.
                        for _ in 0..workers {
                            self.agenda.add(client.arrivals.u64(..SECOND), event);
                        }
                    }
                    _ => {
                        let first = source.next(0, 0, &mut client.arrivals);
                        self.agenda.add(first.unwrap_or(0), event);
                    }
                }
            }
        }
        self.agenda.add(self.setup.warm_up, Event::Mark);
        if let Some((at, _)) = self.setup.change {
            self.agenda.add(at, Event::Change);
        }
        if let Some((at, _)) = self.setup.fault {
            self.agenda.add(at, Event::Fault);
        }
        if self.setup.sample > 0 {
            self.agenda.add(SECOND, Event::Sample);
        }
    }
}
