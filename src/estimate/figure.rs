//! A figure with its range. Pure.

use serde::{Serialize, Serializer};

/// How it may come: the server and its load are kind, as they seem, or unkind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// Everything goes well.
    Good,
    /// As far as it was measured.
    Likely,
    /// Everything goes badly.
    Bad,
}

impl Case {
    /// All of them, in this order.
    pub const ALL: [Case; 3] = [Case::Good, Case::Likely, Case::Bad];
}

/// A figure: the least, the likeliest and the most. Of what work costs, `low` is the good case.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// The least.
    pub low: f64,
    /// The likeliest.
    pub mid: f64,
    /// The most; infinite where there is no end.
    pub high: f64,
}

impl Figure {
    /// One whose range is known.
    pub const fn new(low: f64, mid: f64, high: f64) -> Figure {
        Figure { low, mid, high }
    }

    /// One without a range.
    pub const fn exactly(value: f64) -> Figure {
        Figure::new(value, value, value)
    }

    /// What the three cases come to. A good case for one thing may be a bad one for another, so they are put in order.
    pub fn of_cases(value: impl Fn(Case) -> f64) -> Figure {
        let [good, likely, bad] = Case::ALL.map(value);
        Figure::new(good.min(likely).min(bad), likely, good.max(likely).max(bad))
    }

    /// Its value in a case.
    pub fn in_case(self, case: Case) -> f64 {
        match case {
            Case::Good => self.low,
            Case::Likely => self.mid,
            Case::Bad => self.high,
        }
    }

    /// The greater of each two values.
    pub fn or_more(self, other: Figure) -> Figure {
        Figure::new(self.low.max(other.low), self.mid.max(other.mid), self.high.max(other.high))
    }

    /// Each value times that of another.
    pub fn times(self, other: Figure) -> Figure {
        Figure::new(self.low * other.low, self.mid * other.mid, self.high * other.high)
    }

    /// Each value times a number.
    pub fn scaled(self, factor: f64) -> Figure {
        self.times(Figure::exactly(factor))
    }
}

impl Serialize for Figure {
    /// An object; `null` for what has no end. Thousandths are enough, and a large figure needs none.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = |value: f64| match value {
            v if !v.is_finite() => serde_json::Value::Null,
            v if v.abs() >= 1_000.0 || v.fract() == 0.0 => (v.round() as i64).into(),
            v => ((v * 1_000.0).round() / 1_000.0).into(),
        };
        let object = serde_json::json!({"low": number(self.low), "mid": number(self.mid), "high": number(self.high)});
        object.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_put_in_order() {
        let figure = Figure::of_cases(|case| match case {
            Case::Good => 9.0,
            Case::Likely => 3.0,
            Case::Bad => 1.0,
        });
        assert_eq!(figure, Figure::new(1.0, 3.0, 9.0));
    }

    #[test]
    fn what_has_no_end_is_null() {
        let text = serde_json::to_string(&Figure::new(0.000_4, 1.234_56, f64::INFINITY)).expect("JSON");
        assert_eq!(text, r#"{"high":null,"low":0.0,"mid":1.235}"#);
        let text = serde_json::to_string(&Figure::exactly(8_191.6)).expect("JSON");
        assert_eq!(text, r#"{"high":8192,"low":8192,"mid":8192}"#);
    }
}
