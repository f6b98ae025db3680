//! Times: dates, times since 1970, and numbers in a unit.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::options::TimeUnit;
use super::rows::Bad;

/// Times are kept in units of 100 ns: the resolution of Azure's seven digits.
pub(super) const TICKS_PER_SECOND: i64 = 10_000_000;
/// Greatest time: no sum of two overflows.
pub(super) const MOST_TICKS: i64 = i64::MAX / 4;

/// Times since 1970 in seconds: from 2001 to 2103. Smaller units are a thousand times as many, so that a
/// number of one is none of another.
const SINCE_1970_S: std::ops::Range<i128> = 1_000_000_000..4_200_000_000;
const BILLION: i128 = 1_000_000_000;

pub(super) const UNIT_FLAG: &str = "--time-unit s, ms, us or ns";

/// What the times of a trace are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Date,
    Since1970(TimeUnit),
    /// In the unit of the trace.
    Number(TimeUnit),
}

/// Reads the times of a trace, which are all alike.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    unit: Option<TimeUnit>,
    /// Somebody has said the unit: it is not only that of the layout.
    told: bool,
    whole: bool,
    /// As the first time was.
    kind: Option<Kind>,
}

impl Clock {
    pub(super) fn new(unit: Option<TimeUnit>, whole: bool) -> Self {
        Self { unit, told: false, whole, kind: None }
    }

    /// Whether the unit is what somebody has said.
    pub(super) fn told(self, told: bool) -> Self {
        Self { told, ..self }
    }

    /// A time in ticks.
    pub(super) fn ticks(&mut self, what: &str, text: &str) -> Result<i64, Bad> {
        let Some(billionths) = billionths(text) else {
            let ticks = date(text).ok_or_else(|| {
                let expected = "a time: YYYY-MM-DD HH:MM:SS.fffffff with or without an offset, or a number";
                Bad::new(what, expected, text)
            })?;
            return self.of_kind(Kind::Date, what, text).map(|()| ticks);
        };
        let seconds = |unit: &TimeUnit| billionths / BILLION / unit.per_second();
        let since = TimeUnit::ALL.into_iter().find(|unit| SINCE_1970_S.contains(&seconds(unit)));
        if let Some(unit) = self.unit {
            // Today in seconds is three weeks in ms: only a trace can be that long, not what is before it.
            let is_first = self.kind.is_none() && !self.told;
            if let Some(other) = since.filter(|&other| is_first && other != unit) {
                let expected = format!("a number ({unit}), none that can be {other} since 1970");
                return Err(Bad::new(what, expected, text).settled_by(UNIT_FLAG));
            }
            self.of_kind(Kind::Number(unit), what, text)?;
            return self.in_unit(unit, billionths, what, text);
        }
        let Some(unit) = since else {
            let bad = Bad::new(what, "a date, or a time since 1970 as all before it", text);
            return Err(if self.kind.is_none() { bad.settled_by(UNIT_FLAG) } else { bad });
        };
        self.of_kind(Kind::Since1970(unit), what, text)?;
        in_ticks(billionths, unit).ok_or_else(|| Bad::new(what, "a time", text))
    }

    /// How long something takes, in ticks.
    pub(super) fn duration(&self, what: &str, text: &str) -> Result<i64, Bad> {
        let billionths = billionths(text).filter(|&billionths| billionths >= 0);
        let Some(billionths) = billionths else {
            return Err(Bad::new(what, "a number, not negative", text));
        };
        let Some(unit) = self.unit else {
            return Err(Bad::new(what, "a number in a known unit", text).settled_by(UNIT_FLAG));
        };
        self.in_unit(unit, billionths, what, text)
    }

    fn in_unit(&self, unit: TimeUnit, billionths: i128, what: &str, text: &str) -> Result<i64, Bad> {
        if self.whole && billionths % BILLION != 0 {
            return Err(Bad::new(what, format!("a whole number ({unit})"), text).settled_by(UNIT_FLAG));
        }
        let ticks = in_ticks(billionths, unit);
        ticks.ok_or_else(|| Bad::new(what, format!("a number ({unit}), not negative"), text))
    }

    fn of_kind(&mut self, kind: Kind, what: &str, text: &str) -> Result<(), Bad> {
        match *self.kind.get_or_insert(kind) {
            first if first == kind => Ok(()),
            Kind::Date => Err(Bad::new(what, "a date, as all before it", text)),
            Kind::Since1970(unit) => {
                Err(Bad::new(what, format!("a time since 1970 ({unit}), as all before it"), text))
            }
            Kind::Number(unit) => Err(Bad::new(what, format!("a number ({unit}), as all before it"), text)),
        }
    }
}

/// A number times 10^9; exact where it has no exponent.
fn billionths(text: &str) -> Option<i128> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if digits(whole) && digits(part) && (1..=20).contains(&whole.len()) && !text.ends_with('.') {
        let part = format!("{:0<9}", &part[..part.len().min(9)]);
        return Some(whole.parse::<i128>().ok()? * BILLION + part.parse::<i128>().ok()?);
    }
    let number: f64 = text.parse().ok()?;
    (number.abs() < 1e24).then_some((number * 1e9) as i128)
}

/// None where it is negative or beyond all times.
fn in_ticks(billionths: i128, unit: TimeUnit) -> Option<i64> {
    let ticks = billionths * i128::from(TICKS_PER_SECOND) / (unit.per_second() * BILLION);
    i64::try_from(ticks).ok().filter(|ticks| (0..MOST_TICKS).contains(ticks))
}

/// Ticks since 1970 of a date with a time; UTC where it has no offset.
fn date(text: &str) -> Option<i64> {
    if !text.contains(':') {
        return None;
    }
    let timestamp = text.parse::<Timestamp>().or_else(|_| {
        let civil: DateTime = text.parse()?;
        TimeZone::UTC.to_timestamp(civil)
    });
    let nanoseconds = timestamp.ok()?.as_nanosecond();
    i64::try_from(nanoseconds / (BILLION / i128::from(TICKS_PER_SECOND))).ok().filter(|&ticks| ticks >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(clock: &mut Clock, text: &str) -> Result<i64, Bad> {
        clock.ticks("time", text)
    }

    #[test]
    fn dates_and_times_since_1970_are_one_clock() {
        let at = 17_001_585_466_805_900;
        for text in [
            "2023-11-16 18:15:46.6805900",
            "2023-11-16T18:15:46.68059Z",
            "2023-11-16 20:15:46.68059+02:00",
            "2023-11-16T16:45:46.68059-01:30",
            "1700158546.6805900",
            "1700158546680.59",
            "1700158546680590",
            "1700158546680590000",
        ] {
            assert_eq!(ticks(&mut Clock::new(None, false), text).ok(), Some(at), "{text}");
        }
        // A double holds no more of them than to 256 ns.
        let mut nanoseconds = Clock::new(Some(TimeUnit::Nanoseconds), false);
        assert_eq!(ticks(&mut nanoseconds, "1759813207532900363").ok(), Some(17_598_132_075_329_003));
        assert_eq!(ticks(&mut nanoseconds, "1e9").ok(), Some(TICKS_PER_SECOND));
    }

    #[test]
    fn what_is_unclear_is_settled_by_a_flag() {
        for text in ["5", "0.114", "999999999", "4200000000"] {
            let bad = ticks(&mut Clock::new(None, false), text).expect_err(text);
            assert_eq!(bad.settles, Some(UNIT_FLAG), "{text}");
        }
        let bad = ticks(&mut Clock::new(Some(TimeUnit::Milliseconds), true), "0.114").expect_err("a part");
        assert_eq!(bad.settles, Some(UNIT_FLAG));
        assert!(ticks(&mut Clock::new(Some(TimeUnit::Milliseconds), true), "374.0").is_ok());
    }

    #[test]
    fn a_trace_does_not_begin_weeks_after_its_beginning() {
        let clock = |unit| Clock::new(Some(unit), false);
        for (unit, text) in
            [(TimeUnit::Milliseconds, "1700158546"), (TimeUnit::Nanoseconds, "1700158546680590")]
        {
            let bad = ticks(&mut clock(unit), text).expect_err(text);
            assert_eq!(bad.settles, Some(UNIT_FLAG), "{text}");
            assert!(ticks(&mut clock(unit).told(true), text).is_ok(), "{text}");
            // It may last so long.
            let mut going_on = clock(unit);
            assert!(ticks(&mut going_on, "3").is_ok() && ticks(&mut going_on, text).is_ok(), "{text}");
        }
        assert!(ticks(&mut clock(TimeUnit::Milliseconds), "1700158546680").is_ok());
    }

    #[test]
    fn all_times_of_a_trace_are_alike() {
        let mut clock = Clock::new(None, false);
        assert!(ticks(&mut clock, "1700158546.68").is_ok());
        for text in ["1700158546680", "2023-11-16 18:15:46", "5", "-1", "nan", "yesterday", ""] {
            let bad = ticks(&mut clock, text).expect_err(text);
            assert_eq!(bad.settles, None, "{text}");
        }
        let mut clock = Clock::new(None, false);
        assert!(ticks(&mut clock, "2023-11-16 18:15:46").is_ok());
        assert!(ticks(&mut clock, "1700158546").is_err());
        // Nor are dates between numbers whose unit is known.
        let mut clock = Clock::new(Some(TimeUnit::Seconds), false);
        assert!(ticks(&mut clock, "2023-11-16 18:15:46").is_ok() && ticks(&mut clock, "5").is_err());
        let mut clock = Clock::new(Some(TimeUnit::Seconds), false);
        assert!(ticks(&mut clock, "5").is_ok() && ticks(&mut clock, "2023-11-16 18:15:46").is_err());
    }

    #[test]
    fn no_other_dates_are_guessed() {
        for text in
            ["16/11/2023 18:15:46", "2023-11-16", "2023-13-16 18:15:50", "2023-11-16 18:15:50.", "18:15"]
        {
            assert!(ticks(&mut Clock::new(None, false), text).is_err(), "{text}");
        }
    }
}
