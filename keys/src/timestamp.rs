//! Points in time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::ValueError;
use crate::text::text_value;

/// A point in time in milliseconds since the Unix epoch, written in RFC 3339, UTC, with exactly
/// three decimals: `2026-11-21T18:00:00.123Z`.
///
/// Reading accepts any offset and any number of decimals (what is finer than a millisecond is cut
/// off). Times lie between [`Timestamp::MIN`] and [`Timestamp::MAX`]; arithmetic saturates there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest time that RFC 3339 can write: `0000-01-01T00:00:00.000Z`.
    pub const MIN: Self = Self(-62_167_219_200_000);
    /// The latest time: `9999-12-30T22:00:00.000Z`.
    pub const MAX: Self = Self(253_402_207_200_000);

    /// The time of the system's clock.
    #[must_use]
    pub fn now() -> Self {
        Self::from_millis(jiff::Timestamp::now().as_millisecond())
    }

    /// Milliseconds since the Unix epoch, held between [`Timestamp::MIN`] and [`Timestamp::MAX`].
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        if millis < Self::MIN.0 {
            Self::MIN
        } else if millis > Self::MAX.0 {
            Self::MAX
        } else {
            Self(millis)
        }
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This time and `duration` later, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(millis_of(duration)))
    }

    /// This time and `duration` earlier, at least [`Timestamp::MIN`].
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self::from_millis(self.0.saturating_sub(millis_of(duration)))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

fn millis_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Saturates, as [`Timestamp::saturating_add`].
impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        self.saturating_add(duration)
    }
}

/// Saturates, as [`Timestamp::saturating_sub`].
impl std::ops::Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        self.saturating_sub(duration)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time =
            jiff::Timestamp::from_millisecond(self.0).expect("every constructor keeps the time between MIN and MAX");
        write!(f, "{time:.3}")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let refuse = || ValueError::new(text, "a time in RFC 3339, such as 2026-11-21T18:00:00.123Z");
        if !has_rfc3339_shape(text.as_bytes()) {
            return Err(refuse());
        }
        let time: jiff::Timestamp = text.parse().map_err(|_| refuse())?;
        // Cut towards the past, also before 1970, where as_millisecond would round up.
        let millis = i64::try_from(time.as_nanosecond().div_euclid(1_000_000)).map_err(|_| refuse())?;
        if !(Self::MIN.0..=Self::MAX.0).contains(&millis) {
            return Err(refuse());
        }
        Ok(Self(millis))
    }
}

/// jiff reads more than RFC 3339 (time zone names, week dates, missing seconds); this holds it to the
/// grammar of section 5.6: `YYYY-MM-DDThh:mm:ss[.digits](Z|+hh:mm|-hh:mm)`.
fn has_rfc3339_shape(text: &[u8]) -> bool {
    let matches = |text: &[u8], pattern: &[u8]| {
        text.len() == pattern.len()
            && text.iter().zip(pattern).all(|(c, p)| match p {
                b'0' => c.is_ascii_digit(),
                b'T' => matches!(c, b'T' | b't'),
                p => c == p,
            })
    };
    let Some((head, rest)) = text.split_at_checked(19) else {
        return false;
    };
    if !matches(head, b"0000-00-00T00:00:00") {
        return false;
    }
    let offset = match rest.split_first() {
        Some((b'.', decimals)) => {
            let digits = decimals.iter().take_while(|c| c.is_ascii_digit()).count();
            if !(1..=9).contains(&digits) {
                return false;
            }
            &decimals[digits..]
        }
        _ => rest,
    };
    matches!(offset, b"Z" | b"z") || matches(offset, b"+00:00") || matches(offset, b"-00:00")
}

text_value!(Timestamp, schema: {
    "type": "string",
    "description": "Time in RFC 3339, UTC, with milliseconds",
    "format": "date-time"
});

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Option<String> {
        text.parse::<Timestamp>().ok().map(|time| time.to_string())
    }

    #[test]
    fn times_are_written_in_utc_with_three_decimals() {
        assert_eq!(Timestamp::from_millis(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp::from_millis(1_795_284_000_123).to_string(), "2026-11-21T18:00:00.123Z");
        assert_eq!(Timestamp::from_millis(-1).to_string(), "1969-12-31T23:59:59.999Z");
        assert_eq!(Timestamp::MIN.to_string(), "0000-01-01T00:00:00.000Z");
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-30T22:00:00.000Z");
    }

    #[test]
    fn any_offset_and_precision_is_read() {
        let expect = |text, expected: &str| assert_eq!(read(text).as_deref(), Some(expected));
        expect("2026-11-21T18:00:00Z", "2026-11-21T18:00:00.000Z");
        expect("2026-11-21t18:00:00.5z", "2026-11-21T18:00:00.500Z");
        expect("2026-11-21T19:30:00.123456789+01:30", "2026-11-21T18:00:00.123Z");
        expect("2026-11-21T10:00:00.9999-08:00", "2026-11-21T18:00:00.999Z");
        expect("1969-12-31T23:59:59.9999Z", "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn what_is_not_rfc_3339_is_refused() {
        for text in [
            "",
            "now",
            "2026-11-21",
            "2026-11-21T18:00Z",
            "2026-11-21T18:00:00",
            "2026-11-21 18:00:00Z",
            "2026-11-21T18:00:00.Z",
            "2026-11-21T18:00:00,5Z",
            "2026-11-21T18:00:00.1234567890Z",
            "2026-11-21T18:00:00+0100",
            "2026-11-21T18:00:00Z[UTC]",
            "2026-11-21T18:00:00+01:00[Europe/Paris]",
            "2026-13-21T18:00:00Z",
            "2026-02-29T18:00:00Z",
            "2026-11-21T25:00:00Z",
            "+002026-11-21T18:00:00Z",
            "1700000000",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Timestamp::MAX + Duration::MAX, Timestamp::MAX);
        assert_eq!(Timestamp::MIN - Duration::MAX, Timestamp::MIN);
        assert_eq!(Timestamp::from_millis(i64::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::from_millis(i64::MIN), Timestamp::MIN);
        let (a, b) = (Timestamp::from_millis(1500), Timestamp::from_millis(4000));
        assert_eq!(b.since(a), Duration::from_millis(2500));
        assert_eq!(a.since(b), Duration::ZERO);
        assert_eq!(a + Duration::from_millis(2500), b);
        assert_eq!(b - Duration::from_millis(2500), a);
    }

    proptest! {
        #[test]
        fn text_leads_back_to_the_time(millis in Timestamp::MIN.0..=Timestamp::MAX.0) {
            let time = Timestamp::from_millis(millis);
            let json = serde_json::to_string(&time).unwrap();
            prop_assert_eq!(json.len(), 26);
            prop_assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), time);
        }

        #[test]
        fn any_text_is_read_without_panic(text in "[0-9TZ:+. -]{0,40}") {
            let _ = text.parse::<Timestamp>();
        }
    }
}
