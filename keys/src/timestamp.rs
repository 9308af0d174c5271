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
    /// The latest time: `9999-12-30T22:00:00.999Z`.
    pub const MAX: Self = Self(253_402_207_200_999);

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
        let time = jiff::Timestamp::from_millisecond(self.0)
            .expect("every constructor keeps the time between MIN and MAX");
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
        let refuse =
            || ValueError::new(text, "a time in RFC 3339, such as 2026-11-21T18:00:00.123Z");
        if !has_rfc3339_shape(text.as_bytes()) {
            return Err(refuse());
        }
        let time: jiff::Timestamp = text.parse().map_err(|_| refuse())?;
        // Cut towards the past, also before 1970, where as_millisecond would round up.
        let millis =
            i64::try_from(time.as_nanosecond().div_euclid(1_000_000)).map_err(|_| refuse())?;
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
