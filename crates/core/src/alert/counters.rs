//! The counters that conditions are about.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tower_claude_wire::Usage;

use crate::{
    class::Kind,
    labels::{ScopeTable, Table, WAIT_BOUNDS},
};

/// The unit of sums of ratios.
pub(super) const MILLION: f64 = 1e6;

/// The number and the sum of ratios of used to estimated tokens.
#[derive(Default)]
pub(super) struct EstimateCounters {
    pub(super) count: AtomicU64,
    /// In millionths.
    pub(super) sum: AtomicU64,
}

/// The counters of a scope. Requests, input and output have the indices 0 to 2.
pub(super) struct ScopeCounters {
    pub(super) label: Arc<str>,
    pub(super) charged: [AtomicU64; 3],
    /// 0 if no header has shown the limit.
    pub(super) limits: [AtomicU64; 3],
    pub(super) responses: AtomicU64,
    pub(super) rate_limited: AtomicU64,
    pub(super) unauthorized: AtomicU64,
    pub(super) spend_limit: AtomicU64,
    /// Of input and output.
    pub(super) estimates: [EstimateCounters; 2],
    /// By the bound, and those over the last bound.
    pub(super) waits: [AtomicU64; WAIT_BOUNDS.len() + 1],
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// All counters by their subject.
pub(super) struct Counters {
    pub(super) scopes: ScopeTable<ScopeCounters>,
    /// True while the circuit is open.
    pub(super) circuits: Table<Arc<str>, AtomicBool>,
    /// By the model asked for and the one that got the request.
    pub(super) fallbacks: Table<(Arc<str>, Arc<str>), AtomicU64>,
    /// True while the store does not answer, by the layer.
    pub(super) stores: Table<&'static str, AtomicBool>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            scopes: ScopeTable::new(),
            circuits: Table::new(),
            fallbacks: Table::new(),
            stores: Table::new(),
        }
    }
}

impl ScopeCounters {
    pub(super) fn new(label: Arc<str>) -> Self {
        Self {
            label,
            charged: Default::default(),
            limits: Default::default(),
            responses: AtomicU64::default(),
            rate_limited: AtomicU64::default(),
            unauthorized: AtomicU64::default(),
            spend_limit: AtomicU64::default(),
            estimates: Default::default(),
            waits: Default::default(),
        }
    }

    /// Records an attempt. `kind` is absent if the caller went away.
    pub(super) fn on_attempt(&self, kind: Option<Kind>, usage: &Usage) {
        let tokens = [
            1,
            usage.limited_input().unwrap_or(0),
            usage.limited_output().unwrap_or(0),
        ];
        for (charged, tokens) in self.charged.iter().zip(tokens) {
            add(charged, tokens);
        }
        add(&self.responses, 1);
        match kind {
            Some(Kind::RateLimited | Kind::RampLimited) => add(&self.rate_limited, 1),
            Some(Kind::Unauthorized) => add(&self.unauthorized, 1),
            Some(Kind::SpendLimit) => add(&self.spend_limit, 1),
            _ => {}
        }
    }

    pub(super) fn on_admitted(&self, wait: Duration) {
        let seconds = wait.as_secs_f64();
        let index = WAIT_BOUNDS.partition_point(|bound| *bound < seconds);
        add(&self.waits[index], 1);
    }

    pub(super) fn on_estimates(&self, ratios: [Option<f64>; 2]) {
        for (counters, ratio) in self.estimates.iter().zip(ratios) {
            if let Some(ratio) = ratio {
                add(&counters.count, 1);
                add(&counters.sum, (ratio * MILLION).round() as u64);
            }
        }
    }

    pub(super) fn on_limits(&self, limits: [Option<u64>; 3]) {
        for (known, limit) in self.limits.iter().zip(limits) {
            if let Some(limit) = limit {
                known.store(limit, Ordering::Relaxed);
            }
        }
    }
}

impl Counters {
    pub(super) fn on_fallback(&self, from: Arc<str>, to: Arc<str>) {
        let count = self.fallbacks.get_or_insert((from, to), AtomicU64::default);
        add(&count, 1);
    }

    pub(super) fn set_circuit(&self, label: &Arc<str>, is_open: bool) {
        let circuit = self
            .circuits
            .get_or_insert(label.clone(), AtomicBool::default);
        circuit.store(is_open, Ordering::Relaxed);
    }

    pub(super) fn set_store(&self, layer: &'static str, is_lost: bool) {
        let store = self.stores.get_or_insert(layer, AtomicBool::default);
        store.store(is_lost, Ordering::Relaxed);
    }
}
