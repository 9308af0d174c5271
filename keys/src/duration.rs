//! Durations as people write them: `10s`, `5m`, `1h30m`, `250ms`, `90d`.

use std::time::Duration;

use crate::error::ValueError;

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a duration: whole numbers, each with one of the units `d`, `h`, `m`, `s`, `ms`, from the
/// largest unit to the smallest and each at most once, without spaces.
///
/// # Errors
/// [`ValueError`] for anything else: empty text, a number without a unit, a sign, a fraction, or more
/// milliseconds than an `i64` holds.
pub fn parse(text: &str) -> Result<Duration, ValueError> {
    let refuse = || ValueError::new(text, "a duration, such as 250ms, 10s, 5m, 1h30m or 90d");
    let mut rest = text;
    let mut total: u64 = 0;
    let mut next_unit = 0;
    if rest.is_empty() {
        return Err(refuse());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, tail) = tail.split_at(letters);
        let number: u64 = number.parse().map_err(|_| refuse())?;
        let found = UNITS[next_unit..].iter().position(|(name, _)| *name == unit);
        let index = next_unit + found.ok_or_else(refuse)?;
        total = number
            .checked_mul(UNITS[index].1)
            .and_then(|millis| total.checked_add(millis))
            .filter(|millis| i64::try_from(*millis).is_ok())
            .ok_or_else(refuse)?;
        next_unit = index + 1;
        rest = tail;
    }
    Ok(Duration::from_millis(total))
}

/// Writes a duration so that [`parse`] reads it again; what is finer than a millisecond is cut off.
#[must_use]
pub fn format(duration: Duration) -> String {
    let limit = i64::MAX.unsigned_abs();
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(limit).min(limit);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, size) in UNITS {
        if millis >= size {
            out.push_str(&(millis / size).to_string());
            out.push_str(unit);
            millis %= size;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{format, parse};
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let expect = |text, millis| assert_eq!(parse(text), Ok(Duration::from_millis(millis)));
        expect("10s", 10_000);
        expect("5m", 300_000);
        expect("1h30m", 5_400_000);
        expect("250ms", 250);
        expect("1m250ms", 60_250);
        expect("90d", 7_776_000_000);
        expect("0s", 0);
        expect("90m", 5_400_000);
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "10",
            "s",
            "-5s",
            "+5s",
            "1.5h",
            "1h 30m",
            " 1h",
            "1h ",
            "30m1h",
            "5m5m",
            "5ms5s",
            "10S",
            "10sec",
            "1w",
            "1y",
            "é",
            "10é",
            "1hé",
            "18446744073709551616s",
            "9223372036854775808ms",
            "106751991168d",
            "１s",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        assert_eq!(format(Duration::from_secs(5400)), "1h30m");
        assert_eq!(format(Duration::from_millis(250)), "250ms");
        assert_eq!(format(Duration::from_micros(10)), "0s");
        assert_eq!(format(Duration::ZERO), "0s");
        assert!(parse(&format(Duration::MAX)).is_ok());
    }

    proptest! {
        #[test]
        fn text_leads_back_to_the_duration(millis in 0..=i64::MAX as u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,20}|[0-9dhms]{0,30}") {
            let _ = parse(&text);
        }
    }
}
