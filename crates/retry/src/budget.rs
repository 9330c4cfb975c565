//! What keeps retries from becoming the outage.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

const NANOS: u128 = 1_000_000_000;

/// What one retry takes, in thousandths of a token.
const RETRY_COST: u64 = 1000;

/// A bucket of tokens that pay for retries, shared by all clones.
///
/// A retry takes one token; each success puts 0.5 back, and each second 0.1; at most 100 are kept,
/// and 10 are there at the start. So in any window of `T` seconds there are at most
/// `100 + 0.5 × successes + 0.1 × T` retries: nearly all in a partial outage, almost none in a full
/// one. A retry after a rate-limit 429 is free, since the limit itself paces it.
///
/// Give several layers the same budget when they send to the same upstream.
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
pub struct RetryBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rates: Rates,
    /// Spares the happy path the lock: a full bucket has no use for a deposit.
    full: AtomicBool,
    level: Mutex<Level>,
}

/// All in thousandths of a token.
#[derive(Clone, Copy, Debug)]
struct Rates {
    max: u64,
    initial: u64,
    deposit: u64,
    per_second: u64,
}

#[derive(Debug)]
struct Level {
    tokens: u64,
    /// Nanoseconds × rate that did not make a whole thousandth yet.
    carry: u128,
    at: Option<Instant>,
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
    /// The recommended budget: 100 tokens at most, 10 at the start, 0.5 per success, 0.1 per second.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A new budget that keeps at most this many tokens.
    #[must_use]
    pub fn with_max(self, tokens: u32) -> Self {
        self.rebuilt(|rates| rates.max = u64::from(tokens) * 1000)
    }

    /// A new budget that begins with this many tokens, at most the maximum.
    #[must_use]
    pub fn with_initial(self, tokens: u32) -> Self {
        self.rebuilt(|rates| rates.initial = u64::from(tokens) * 1000)
    }

    /// A new budget to which each success adds this many tokens, to the thousandth. Negative and
    /// undefined values count as zero.
    #[must_use]
    pub fn with_deposit(self, tokens: f64) -> Self {
        self.rebuilt(|rates| rates.deposit = thousandths(tokens))
    }

    /// A new budget to which each second adds this many tokens, to the thousandth. Negative and
    /// undefined values count as zero.
    #[must_use]
    pub fn with_trickle(self, tokens_per_second: f64) -> Self {
        self.rebuilt(|rates| rates.per_second = thousandths(tokens_per_second))
    }

    /// The tokens there are now.
    #[must_use]
    pub fn tokens(&self) -> f64 {
        self.thousandths(Instant::now()) as f64 / 1000.0
    }

    /// The same in whole thousandths, at `now`.
    pub(crate) fn thousandths(&self, now: Instant) -> u64 {
        let mut level = self.level();
        level.refill(&self.0.rates, now);
        level.tokens
    }

    /// Notes a success.
    pub(crate) fn deposit(&self) {
        if !self.0.full.load(Ordering::Relaxed) {
            self.put(self.0.rates.deposit);
        }
    }

    /// Pays for a retry, if there is enough.
    pub(crate) fn withdraw(&self, now: Instant) -> Option<Payment> {
        let mut level = self.level();
        level.refill(&self.0.rates, now);
        level.tokens = level.tokens.checked_sub(RETRY_COST)?;
        self.0.full.store(false, Ordering::Relaxed);
        drop(level);
        Some(Payment {
            budget: Some(self.clone()),
            sent: false,
        })
    }

    fn put(&self, thousandths: u64) {
        let mut level = self.level();
        level.tokens = level
            .tokens
            .saturating_add(thousandths)
            .min(self.0.rates.max);
        let full = level.tokens == self.0.rates.max;
        self.0.full.store(full, Ordering::Relaxed);
    }

    fn of(rates: Rates) -> Self {
        let tokens = rates.initial.min(rates.max);
        Self(Arc::new(Shared {
            rates,
            full: AtomicBool::new(tokens == rates.max),
            level: Mutex::new(Level {
                tokens,
                carry: 0,
                at: None,
            }),
        }))
    }

    fn rebuilt(&self, change: impl FnOnce(&mut Rates)) -> Self {
        let mut rates = self.0.rates;
        change(&mut rates);
        Self::of(rates)
    }

    fn level(&self) -> MutexGuard<'_, Level> {
        self.0.level.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Level {
    /// Adds what time has brought. The clock starts at the first look.
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

/// The price of a retry. Dropped before the retry was sent, it goes back. By default, nothing.
#[derive(Debug, Default)]
pub(crate) struct Payment {
    budget: Option<RetryBudget>,
    sent: bool,
}

impl Payment {
    /// A retry that costs nothing.
    pub(crate) const FREE: Self = Self {
        budget: None,
        sent: false,
    };

    /// The retry is on its way; from here on only [`refund`](Self::refund) gives the price back.
    pub(crate) const fn sent(&mut self) {
        self.sent = true;
    }

    /// The retry never left the process.
    pub(crate) fn refund(&mut self) {
        if let Some(budget) = self.budget.take() {
            budget.put(RETRY_COST);
        }
    }
}

impl Drop for Payment {
    fn drop(&mut self) {
        if !self.sent {
            self.refund();
        }
    }
}

fn thousandths(tokens: f64) -> u64 {
    // `as` saturates, and takes what is not a number for zero.
    (tokens * 1000.0).round() as u64
}
