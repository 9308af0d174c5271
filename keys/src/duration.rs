//! Durations as people write them: `10s`, `5m`, `1h30m`, `250ms`, `90d`.

use std::time::Duration;

use crate::error::ValueError;

const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

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
        let found = UNITS[next_unit..]
            .iter()
            .position(|(name, _)| *name == unit);
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
    let mut millis = u64::try_from(duration.as_millis())
        .unwrap_or(limit)
        .min(limit);
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
