//! Conversions between floats and integers. Those of the standard library are function calls on
//! processors without an instruction for them.

/// Returns the nearest whole number, halves away from zero, and 0 below zero.
pub(crate) fn rounded(x: f64) -> u64 {
    // A cast of a float truncates and saturates.
    let whole = x as u64;
    whole.saturating_add(u64::from(x - whole as f64 >= 0.5))
}

/// Returns the next whole number, and 0 below zero.
pub(crate) fn rounded_up(x: f64) -> u64 {
    let whole = x as u64;
    whole.saturating_add(u64::from(x > whole as f64))
}

/// Returns the integer as a float. Most 128-bit integers fit 64 bits.
pub(crate) fn float(x: i128) -> f64 {
    match i64::try_from(x) {
        Ok(x) => x as f64,
        Err(_) => wide_float(x),
    }
}

// Out of line, or the compiler calls the conversion unconditionally to save a jump.
#[cold]
#[inline(never)]
fn wide_float(x: i128) -> f64 {
    x as f64
}

/// Returns the whole part, saturating.
pub(crate) fn whole(x: f64) -> i128 {
    if x.abs() < (1_u64 << 63) as f64 {
        return i128::from(x as i64);
    }
    x as i128
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_equal_those_of_the_standard_library() {
        let mut floats = vec![0.0, -0.0, 0.49999999999999994, f64::MIN_POSITIVE, f64::NAN];
        for bits in 0..128 {
            let power = 2_f64.powi(bits);
            floats.extend([power, power.next_up(), power.next_down(), power + 0.5]);
            floats.extend([power / 3.0, power + 1.5, 1.0 / power]);
        }
        floats.extend([f64::MAX, f64::INFINITY]);
        for x in floats.into_iter().flat_map(|x| [x, -x]) {
            assert_eq!(rounded(x), x.round() as u64, "{x:?}");
            assert_eq!(rounded_up(x), x.ceil() as u64, "{x:?}");
            assert_eq!(whole(x), x as i128, "{x:?}");
            let wide = x as i128;
            assert_eq!(float(wide), wide as f64, "{x:?}");
        }
    }
}
