//! The server: the accounting of the fake Claude API in virtual time.

use std::time::Duration;

use tower_claude_fake_claude::model::{Accounting, AdmissionId, Charge, GaugeSet, GroupLimits};

use crate::{
    client::{HeaderGauge, ResponseHead},
    setup::{HeaderMode, Setup},
    simulation::request_gate::RequestGate,
    units::SECOND,
    workload::Quota,
};

/// The time of the accounting at the start of the simulation, by which the bucket of requests is
/// full again after the admission that is charged for all output.
const START: u64 = 60 * SECOND;

/// Output tokens per second of one response.
pub(crate) const STREAM: u64 = 80;

/// The accounting, with the output in production. Output is charged before each access, as it was
/// produced since the last one, in whole tokens with a carry.
#[derive(Debug)]
pub(crate) struct Server {
    accounting: Accounting,
    gate: RequestGate,
    headers: HeaderMode,
    /// The limits of a group cannot change, so new limits are a new group with the old levels.
    group: String,
    groups: u32,
    burst: Duration,
    /// An admission that stays open and is charged for all output.
    pump: Option<AdmissionId>,
    streams: u64,
    at: u64,
    carry: u64,
    /// Output tokens produced, ever.
    pub(crate) produced: u64,
    /// Seconds by which its `date` header is ahead.
    pub(crate) date_off: i64,
    /// Seconds by which its reset times are ahead, beside those of the date.
    pub(crate) reset_off: i64,
}

impl Server {
    pub(crate) fn new(setup: &Setup, refused_cost: bool) -> Self {
        let (quota, burst) = (setup.quota, setup.burst);
        let accounting =
            Accounting::new(limits(quota, burst)).with_rejected_costs_request(refused_cost);
        let mut server = Self {
            accounting,
            gate: RequestGate::new(setup.enforcement, quota.0[0]),
            headers: setup.headers,
            group: "0".to_owned(),
            groups: 0,
            burst,
            pump: None,
            streams: 0,
            at: 0,
            carry: 0,
            produced: 0,
            date_off: 0,
            reset_off: 0,
        };
        server.pump = server.open_at(0);
        server
    }

    /// Admits a request, or returns the nanoseconds until it can be admitted.
    pub(crate) fn admit(&mut self, now: u64, input: u64) -> Result<(), u64> {
        self.catch_up(now);
        match self.gate.wait(now) {
            0 => {}
            wait => return Err(wait),
        }
        let charge = Charge {
            input_estimate: input,
            ..Charge::default()
        };
        match self.accounting.admit(START + now, &self.group, charge) {
            Ok(id) => {
                self.accounting.finish(START + now, id);
                self.gate.take(now);
                Ok(())
            }
            Err(refused) => Err((refused.retry_after.as_nanos() as u64).max(1)),
        }
    }

    pub(crate) fn stream_starts(&mut self, now: u64) {
        self.catch_up(now);
        self.streams += 1;
    }

    pub(crate) fn stream_ends(&mut self, now: u64) {
        self.catch_up(now);
        self.streams -= 1;
    }

    pub(crate) fn gauges(&mut self, now: u64) -> GaugeSet {
        self.catch_up(now);
        self.accounting.gauges(START + now, &self.group)
    }

    /// Returns the lowest level of all limits, as a share of the capacity.
    pub(crate) fn level(&mut self, now: u64) -> f64 {
        let gauges = self.gauges(now);
        let readings = [gauges.requests, gauges.input_tokens, gauges.output_tokens];
        let shares = readings.map(|reading| reading.level as f64 / reading.capacity.max(1) as f64);
        shares.into_iter().fold(1.0, f64::min).max(0.0)
    }

    /// Returns the headers of a response at `now`.
    pub(crate) fn head(&mut self, now: u64) -> ResponseHead {
        let mut gauges = self.gauges(now);
        if let Some((remaining, full_in)) = self.gate.shown(now) {
            gauges.requests.level = remaining as i64;
            gauges.requests.full_in = Duration::from_nanos(full_in);
        }
        let nothing_remains = self.headers == HeaderMode::NothingRemains;
        let shown = |limit, remaining, full_in: Duration| {
            let remaining = if nothing_remains { 0 } else { remaining };
            // The second at which the bucket is full, rounded up like in the fake server's headers.
            let full = now + full_in.as_nanos() as u64;
            let full = if full_in.is_zero() {
                full / SECOND
            } else {
                full.div_ceil(SECOND)
            };
            HeaderGauge {
                limit,
                remaining,
                reset: full as i64 + self.date_off + self.reset_off,
            }
        };
        let (requests, input) = (gauges.requests, gauges.input_tokens);
        let output = gauges.output_tokens;
        ResponseHead {
            shown: [
                shown(requests.limit, requests.remaining(), requests.full_in),
                shown(input.limit, input.remaining_rounded(), input.full_in),
                shown(output.limit, output.remaining_rounded(), output.full_in),
            ],
            is_silent: self.headers == HeaderMode::Silent,
            date: (now / SECOND) as i64 + self.date_off,
            refused: None,
            input: 0,
        }
    }

    /// Changes the limits. The levels are kept, up to the new capacity.
    pub(crate) fn change(&mut self, now: u64, quota: Quota) {
        let old = self.gauges(now);
        self.gate.change(now, quota.0[0]);
        self.groups += 1;
        self.group = self.groups.to_string();
        let empty = Accounting::new(limits(quota, self.burst));
        self.accounting = std::mem::replace(&mut self.accounting, empty)
            .with_group(&self.group, limits(quota, self.burst));
        self.pump = self.open_at(0);
        let new = self.gauges(now);
        for _ in old.requests.level..new.requests.level {
            if let Some(id) = self.open_at(START + now) {
                self.accounting.finish(START + now, id);
            }
        }
        let surplus = |old: i64, new: i64| (new - old).max(0) as u64;
        if let Some(pump) = self.pump {
            let input = surplus(old.input_tokens.level, new.input_tokens.level);
            self.accounting.correct_input(START + now, pump, input);
            let output = surplus(old.output_tokens.level, new.output_tokens.level);
            self.accounting.produce(START + now, pump, output);
        }
    }

    /// Admits a request without tokens at this time of the accounting.
    fn open_at(&mut self, at: u64) -> Option<AdmissionId> {
        let admitted = self.accounting.admit(at, &self.group, Charge::default());
        admitted.ok()
    }

    /// Charges the output that was produced since the last call.
    fn catch_up(&mut self, now: u64) {
        if now <= self.at {
            return;
        }
        self.carry += self.streams * STREAM * (now - self.at);
        self.at = now;
        let tokens = self.carry / SECOND;
        if tokens > 0 {
            self.carry %= SECOND;
            self.produced += tokens;
            if let Some(pump) = self.pump {
                self.accounting.produce(START + now, pump, tokens);
            }
        }
    }
}

fn limits(quota: Quota, burst: Duration) -> GroupLimits {
    let Quota([requests, input, output]) = quota;
    GroupLimits::new()
        .with_requests_per_minute(requests)
        .with_input_tokens_per_minute(input)
        .with_output_tokens_per_minute(output)
        .with_burst(burst)
}
