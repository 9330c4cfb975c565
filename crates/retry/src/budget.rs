//! The retry budget, which keeps retries from prolonging an outage.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

const NANOS: u128 = 1_000_000_000;

/// The time after a charged retry in which the first retries of other lost calls are not charged.
const MOMENT: Duration = Duration::from_secs(1);

/// The price of one retry, in thousandths of a token.
const RETRY_COST: u64 = 1000;

/// A bucket of tokens that pay for retries, shared by all clones.
///
/// A retry takes one token. Each success returns 0.5 tokens, and each second adds 0.1. The bucket
/// holds at most 100 tokens and starts with 10. So there are at most `100 + 0.5 × successes + 0.1 ×
/// T` retries in any window of `T` seconds. A partial outage is retried nearly always, a full one
/// almost never. A retry after a rate-limit 429 is not charged, because the limit itself paces it.
/// Calls that lose their connections within a second, such as all calls on one HTTP/2 connection,
/// take one token together for their first retry. In an outage of the connections that is at most
/// one such second for each token.
///
/// The tokens count for each host, so that an outage of a host leaves the retries at the others
/// alone. Layers that send to the same upstream should share one budget.
///
/// ```
/// use tower_claude_retry::{RetryBudget, RetryLayer};
///
/// let budget = RetryBudget::new().with_max(50).with_deposit(0.2);
/// let chat = RetryLayer::new().with_budget(budget.clone());
/// let batch = RetryLayer::new().with_budget(budget);
/// # let _ = (chat, batch);
/// ```
#[derive(Clone, Debug)]
pub struct RetryBudget {
    shared: Arc<Shared>,
    /// The hash of the host whose tokens are used.
    host: u64,
}

#[derive(Debug)]
struct Shared {
    rates: Rates,
    /// The host whose level is full, [`EVERY_HOST`] or [`NO_HOST`]. A success there adds nothing,
    /// and needs no lock.
    full: AtomicU64,
    levels: Mutex<HostLevels>,
}

const EVERY_HOST: u64 = u64::MAX;
const NO_HOST: u64 = u64::MAX - 1;

/// The most hosts with a level of their own. Over it, the one that was used least recently is
/// forgotten.
const MAX_HOSTS: usize = 256;

/// The levels by host.
#[derive(Debug)]
struct HostLevels {
    /// The level of any other host.
    unused: Level,
    hosts: HashMap<u64, Level>,
}

impl HostLevels {
    /// Returns the level of a host, which begins as that of any unused one.
    fn of(&mut self, host: u64) -> &mut Level {
        if self.hosts.len() >= MAX_HOSTS && !self.hosts.contains_key(&host) {
            let oldest = self.hosts.iter().min_by_key(|(_, level)| level.at);
            if let Some(host) = oldest.map(|(host, _)| *host) {
                self.hosts.remove(&host);
            }
        }
        let unused = &self.unused;
        self.hosts.entry(host).or_insert_with(|| unused.clone())
    }
}

/// The settings of a budget, in thousandths of a token.
#[derive(Clone, Copy, Debug)]
struct Rates {
    max: u64,
    initial: u64,
    deposit: u64,
    per_second: u64,
}

#[derive(Clone, Debug)]
struct Level {
    tokens: u64,
    /// The refill that is less than a thousandth, as nanoseconds × rate.
    carry: u128,
    at: Option<Instant>,
    /// The last charged retry after a lost connection.
    lost_at: Option<Instant>,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::of(Rates {
            max: 100_000,
            initial: 10_000,
            deposit: 500,
            per_second: 100,
        })
    }
}

impl RetryBudget {
    /// Creates the recommended budget: at most 100 tokens, 10 at the start, 0.5 per success and 0.1
    /// per second.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a new budget that holds at most this many tokens. 100 by default. With 0, only rate
    /// limits are retried.
    #[must_use]
    pub fn with_max(self, tokens: u32) -> Self {
        self.rebuilt(|rates| rates.max = u64::from(tokens) * 1000)
    }

    /// Returns a new budget that starts with this many tokens, at most the maximum. 10 by default.
    #[must_use]
    pub fn with_initial(self, tokens: u32) -> Self {
        self.rebuilt(|rates| rates.initial = u64::from(tokens) * 1000)
    }

    /// Returns a new budget to which each success adds this many tokens, rounded to the thousandth.
    /// 0.5 by default. Negative values and NaN count as zero.
    #[must_use]
    pub fn with_deposit(self, tokens: f64) -> Self {
        self.rebuilt(|rates| rates.deposit = thousandths(tokens))
    }

    /// Returns a new budget to which each second adds this many tokens, rounded to the thousandth.
    /// 0.1 by default. Negative values and NaN count as zero.
    #[must_use]
    pub fn with_refill_per_second(self, tokens_per_second: f64) -> Self {
        self.rebuilt(|rates| rates.per_second = thousandths(tokens_per_second))
    }

    /// Returns the number of tokens, at the host that has the fewest.
    #[must_use]
    pub fn tokens(&self) -> f64 {
        self.thousandths(Instant::now()) as f64 / 1000.0
    }

    /// Returns the number of thousandths of a token at `now`, at the host that has the fewest.
    pub(crate) fn thousandths(&self, now: Instant) -> u64 {
        let mut levels = self.levels();
        let rates = &self.shared.rates;
        levels.unused.refill(rates, now);
        let tokens = levels.hosts.values_mut().map(|level| {
            level.refill(rates, now);
            level.tokens
        });
        tokens.min().unwrap_or(levels.unused.tokens)
    }

    /// Returns the same budget, for the host with this hash.
    pub(crate) fn at(&self, host: u64) -> Self {
        let shared = self.shared.clone();
        Self { shared, host }
    }

    /// Records a success at the host with this hash.
    #[inline]
    pub(crate) fn deposit(&self, host: u64) {
        let full = self.shared.full.load(Ordering::Relaxed);
        if full != host && full != EVERY_HOST {
            self.put(host, self.shared.rates.deposit);
        }
    }

    /// Takes the price of a retry, or returns `None` if there are too few tokens.
    pub(crate) fn withdraw(&self, now: Instant) -> Option<RetryPermit> {
        self.withdraw_from(self.levels().of(self.host), now)
    }

    /// Takes the price of the first retry of a call whose connection was lost, together with the
    /// other calls that lose theirs within a second.
    pub(crate) fn withdraw_together(&self, now: Instant) -> Option<RetryPermit> {
        let mut levels = self.levels();
        let level = levels.of(self.host);
        let is_same = |at: Instant| now.saturating_duration_since(at) < MOMENT;
        if level.lost_at.is_some_and(is_same) {
            return Some(RetryPermit::UNCHARGED);
        }
        let permit = self.withdraw_from(level, now)?;
        level.lost_at = Some(now);
        Some(permit)
    }

    fn withdraw_from(&self, level: &mut Level, now: Instant) -> Option<RetryPermit> {
        level.refill(&self.shared.rates, now);
        level.tokens = level.tokens.checked_sub(RETRY_COST)?;
        self.shared.full.store(NO_HOST, Ordering::Relaxed);
        Some(RetryPermit {
            budget: Some(self.clone()),
            sent: false,
        })
    }

    fn put(&self, host: u64, thousandths: u64) {
        let mut levels = self.levels();
        let level = levels.of(host);
        let max = self.shared.rates.max;
        level.tokens = level.tokens.saturating_add(thousandths).min(max);
        if level.tokens == max {
            self.shared.full.store(host, Ordering::Relaxed);
        }
    }

    fn of(rates: Rates) -> Self {
        let tokens = rates.initial.min(rates.max);
        let is_full = tokens == rates.max;
        let unused = Level {
            tokens,
            carry: 0,
            at: None,
            lost_at: None,
        };
        let shared = Arc::new(Shared {
            rates,
            full: AtomicU64::new(if is_full { EVERY_HOST } else { NO_HOST }),
            levels: Mutex::new(HostLevels {
                unused,
                hosts: HashMap::new(),
            }),
        });
        Self { shared, host: 0 }
    }

    fn rebuilt(&self, change: impl FnOnce(&mut Rates)) -> Self {
        let mut rates = self.shared.rates;
        change(&mut rates);
        Self::of(rates)
    }

    fn levels(&self) -> MutexGuard<'_, HostLevels> {
        let levels = self.shared.levels.lock();
        levels.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Level {
    /// Adds the refill since the last call. The clock starts at the first call.
    fn refill(&mut self, rates: &Rates, now: Instant) {
        let since = *self.at.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since);
        if elapsed == Duration::ZERO {
            return;
        }
        self.at = Some(now);
        let gained = elapsed
            .as_nanos()
            .saturating_mul(u128::from(rates.per_second))
            .saturating_add(self.carry);
        self.carry = gained % NANOS;
        let gained = u64::try_from(gained / NANOS).unwrap_or(u64::MAX);
        self.tokens = self.tokens.saturating_add(gained).min(rates.max);
    }
}

/// A permit for one retry. Its price goes back to the budget if it is dropped before the retry is
/// sent. The default permit has no price.
#[derive(Debug, Default)]
pub(crate) struct RetryPermit {
    budget: Option<RetryBudget>,
    sent: bool,
}

impl RetryPermit {
    /// A permit without a price.
    pub(crate) const UNCHARGED: Self = Self {
        budget: None,
        sent: false,
    };

    /// Records that the retry was sent. Only [`refund`](Self::refund) returns the price after that.
    pub(crate) const fn mark_sent(&mut self) {
        self.sent = true;
    }

    /// Returns the price, because an inner layer has rejected the retry.
    pub(crate) fn refund(&mut self) {
        if let Some(budget) = self.budget.take() {
            budget.put(budget.host, RETRY_COST);
        }
    }
}

impl Drop for RetryPermit {
    fn drop(&mut self) {
        if !self.sent {
            self.refund();
        }
    }
}

fn thousandths(tokens: f64) -> u64 {
    // `as` saturates, and turns NaN into zero.
    (tokens * 1000.0).round() as u64
}
