//! Measured values of one thing.

use std::fmt;

/// Values in ascending order; at least one.
#[derive(Debug)]
pub struct Spread(Vec<f64>);

impl Spread {
    /// Of these values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        assert!(!values.is_empty(), "nothing was measured");
        Self(values)
    }

    /// The smallest value that at least `percent` of all do not exceed.
    pub fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0[rank.max(1) - 1]
    }

    /// The value in the middle.
    pub fn median(&self) -> f64 {
        self.percentile(50)
    }
}

/// Median, and in parentheses the least and the greatest.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$} ({:.digits$}-{:.digits$})", self.median(), self.0[0], self.0[self.0.len() - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let spread = Spread::of((1..=100).rev().map(f64::from));
        let found = [0, 50, 99, 100].map(|percent| format!("{:.0}", spread.percentile(percent)));
        assert_eq!(found, ["1", "50", "99", "100"]);
        assert_eq!(format!("{spread:.0}"), "50 (1-100)");
    }
}
