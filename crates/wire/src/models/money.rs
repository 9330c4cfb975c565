//! Exact amounts of money.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

const PICOS_PER_NANO: i128 = 1_000;
const PICOS_PER_MICRO: i128 = 1_000_000;
const PICOS_PER_DOLLAR: i128 = 1_000_000_000_000;
/// The digits of a pico-dollar behind the decimal point.
const DIGITS: usize = 12;

/// An exact amount of US dollars, which may be negative.
///
/// The amount is a whole number of pico-dollars (10^-12 USD), because half the price of a cache
/// read in the US is 5.5 nano-dollars on the cheapest model. No sum of prices is therefore rounded.
/// Arithmetic saturates.
///
/// [`Display`](fmt::Display) writes all digits, or those of a given precision, rounded half away
/// from zero.
///
/// ```
/// use tower_claude_wire::Money;
///
/// let price = Money::from_nanos(4_000);
/// let cost = price.times(2_500);
/// assert_eq!(cost.micros(), 10_000);
/// assert_eq!(cost.to_string(), "$0.01");
/// assert_eq!(format!("{:.4}", cost - Money::from_dollars(2)), "-$1.9900");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(i128);

impl Money {
    /// No money.
    pub const ZERO: Self = Self(0);

    /// Creates an amount of whole dollars.
    #[must_use]
    pub const fn from_dollars(dollars: i64) -> Self {
        Self(dollars as i128 * PICOS_PER_DOLLAR)
    }

    /// Creates an amount of micro-dollars (10^-6 USD).
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros as i128 * PICOS_PER_MICRO)
    }

    /// Creates an amount of nano-dollars (10^-9 USD), the unit of a [`RateCard`](crate::RateCard).
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos as i128 * PICOS_PER_NANO)
    }

    /// Creates an amount of pico-dollars (10^-12 USD).
    #[must_use]
    pub const fn from_picos(picos: i128) -> Self {
        Self(picos)
    }

    /// Returns the exact amount in pico-dollars.
    #[must_use]
    pub const fn picos(self) -> i128 {
        self.0
    }

    /// Returns the amount in nano-dollars, rounded half away from zero.
    #[must_use]
    pub const fn nanos(self) -> i64 {
        narrow(rounded(self.0, PICOS_PER_NANO))
    }

    /// Returns the amount in micro-dollars, rounded half away from zero.
    #[must_use]
    pub const fn micros(self) -> i64 {
        narrow(rounded(self.0, PICOS_PER_MICRO))
    }

    /// Returns the amount in dollars as a floating-point number, for gauges and charts.
    #[must_use]
    pub fn dollars(self) -> f64 {
        self.0 as f64 / PICOS_PER_DOLLAR as f64
    }

    /// Returns this many times the amount.
    #[must_use]
    pub const fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count as i128))
    }

    /// Returns true if the amount is less than zero.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }
}

/// Returns the quotient, rounded half away from zero.
const fn rounded(amount: i128, unit: i128) -> i128 {
    let (whole, rest) = (amount / unit, amount % unit);
    if rest.unsigned_abs() >= (unit / 2).unsigned_abs() && unit > 1 {
        whole + amount.signum()
    } else {
        whole
    }
}

const fn narrow(amount: i128) -> i64 {
    if amount > i64::MAX as i128 {
        i64::MAX
    } else if amount < i64::MIN as i128 {
        i64::MIN
    } else {
        amount as i64
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Money {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Neg for Money {
    type Output = Self;

    fn neg(self) -> Self {
        Self(self.0.saturating_neg())
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Money {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl<'a> Sum<&'a Money> for Money {
    fn sum<I: Iterator<Item = &'a Money>>(amounts: I) -> Self {
        amounts.copied().sum()
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let precision = f.precision().map_or(DIGITS, |wanted| wanted.min(DIGITS));
        let unit = 10_i128.pow((DIGITS - precision) as u32);
        let amount = rounded(self.0, unit);
        let per_dollar = 10_u128.pow(precision as u32);
        let (dollars, rest) = (
            amount.unsigned_abs() / per_dollar,
            amount.unsigned_abs() % per_dollar,
        );
        let sign = if amount < 0 { "-" } else { "" };
        let mut text = format!("{sign}${dollars}");
        if precision > 0 {
            let fraction = format!("{rest:0precision$}");
            let fraction = match f.precision() {
                Some(_) => &*fraction,
                None => fraction.trim_end_matches('0'),
            };
            if !fraction.is_empty() {
                text.push('.');
                text.push_str(fraction);
            }
        }
        // The precision is not that of a text, which would be cut.
        match f.width() {
            Some(width) => write!(f, "{text:>width$}"),
            None => f.write_str(&text),
        }
    }
}
