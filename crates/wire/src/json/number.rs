//! Numbers in JSON.

/// Parses the digits with which the text begins, at most 18, up to a comma or a closing brace.
/// Returns the number and its length.
#[inline(always)]
pub(crate) fn digits(text: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0_u64;
    for (length, byte) in text.iter().enumerate() {
        let Some(digit) = digit(*byte) else {
            let is_end = matches!(byte, b',' | b'}') && (1..=18).contains(&length);
            return is_end.then_some((number, length));
        };
        // Only a number that is too long wraps.
        number = number.wrapping_mul(10).wrapping_add(digit);
    }
    None
}

/// Parses a non-negative integer of 64 bits: digits and nothing else, at least one.
pub(crate) fn integer(value: &[u8]) -> Option<u64> {
    // Nineteen digits always fit, so the usual number needs no checked arithmetic.
    let (head, tail) = value.split_at(value.len().min(19));
    let mut sum = 0;
    for byte in head {
        sum = sum * 10 + digit(*byte)?;
    }
    let add = |sum: u64, byte: &u8| sum.checked_mul(10)?.checked_add(digit(*byte)?);
    tail.iter().try_fold(sum, add).filter(|_| !value.is_empty())
}

/// Parses a non-negative whole number in any notation of JSON: `2700`, `2700.0` or `2.7e3`.
pub(crate) fn whole_number(value: &[u8]) -> Option<u64> {
    integer(value).or_else(|| decimal(value))
}

#[cold]
fn decimal(value: &[u8]) -> Option<u64> {
    /// Up to here, every whole number has an exact `f64`.
    const EXACT: f64 = (1_u64 << 53) as f64;
    // Rust's parser also accepts signs, `inf` and `nan`.
    if !value.first().is_some_and(u8::is_ascii_digit) {
        return None;
    }
    let number: f64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    (number <= EXACT && number.fract() == 0.0).then_some(number as u64)
}

fn digit(byte: u8) -> Option<u64> {
    let digit = byte.wrapping_sub(b'0');
    (digit <= 9).then_some(u64::from(digit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{integer, whole_number};

    #[test]
    fn whole_number_in_any_notation_is_parsed() {
        for (text, number) in [
            ("0", 0),
            ("2700", 2_700),
            ("2700.0", 2_700),
            ("2.7e3", 2_700),
            ("27E+2", 2_700),
            ("27000e-1", 2_700),
            ("9007199254740992.0", 1 << 53),
        ] {
            assert_eq!(whole_number(text.as_bytes()), Some(number), "{text}");
        }
        for text in [
            "", "-1", "-0.5", "1.5", "1e99", "1e999", "null", "\"3\"", "inf", "nan", "+1", ".5",
            "1 2", "{}",
        ] {
            assert_eq!(whole_number(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn integer_of_any_text_is_parsed_as_by_the_standard_library(
            text in prop_oneof![any::<u64>().prop_map(|number| number.to_string()), "[0-9]{0,24}", "[0-9+. -]{0,6}", any::<String>()],
        ) {
            let expected = text.parse::<u64>().ok().filter(|_| !text.starts_with('+'));
            prop_assert_eq!(integer(text.as_bytes()), expected);
        }
    }
}
