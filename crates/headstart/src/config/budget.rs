//! A span of time as people write it: `90s`, `10m`, `2h`. Owns: reading and writing it. Never: a clock.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The time a run may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Budget {
    /// How many of the unit.
    count: u32,
    unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Seconds,
    Minutes,
    Hours,
    Days,
}

const UNITS: [(Unit, &str, u32); 4] =
    [(Unit::Seconds, "s", 1), (Unit::Minutes, "m", 60), (Unit::Hours, "h", 3_600), (Unit::Days, "d", 86_400)];

impl Budget {
    /// In seconds.
    pub fn seconds(self) -> f64 {
        let length = UNITS.iter().find(|(unit, _, _)| *unit == self.unit).map_or(1, |(_, _, length)| *length);
        f64::from(self.count) * f64::from(length)
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        // A bare number is one of seconds, as `max_time` is.
        let split = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
        let (count, name) = trimmed.split_at(split);
        let unit = UNITS.iter().find(|(_, short, _)| *short == if name.is_empty() { "s" } else { name });
        match (count.parse(), unit) {
            (Ok(count), Some(&(unit, _, _))) if count > 0 => Ok(Self { count, unit }),
            _ => Err(format!("`{text}` is no span of time; write 90s, 10m, 2h or 1d")),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = UNITS.iter().find(|(unit, _, _)| *unit == self.unit).map_or("s", |(_, short, _)| short);
        write!(f, "{}{short}", self.count)
    }
}

impl TryFrom<String> for Budget {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Budget> for String {
    fn from(budget: Budget) -> Self {
        budget.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_are_read_and_written() {
        for (text, seconds) in
            [("90s", 90.0), ("10m", 600.0), ("2h", 7_200.0), ("1d", 86_400.0), ("45", 45.0)]
        {
            let budget: Budget = text.parse().unwrap();
            assert!((budget.seconds() - seconds).abs() < 1e-9, "{text}");
            assert_eq!(budget.to_string().parse::<Budget>().unwrap(), budget);
        }
        for text in ["", "m", "10 years", "-5m", "0s", "1.5h", "99999999999s"] {
            assert!(text.parse::<Budget>().is_err(), "{text}");
        }
    }
}
