//! How many different keys a number of changes is about. Pure.
//!
//! A row that changes a hundred times is one key of the backlog. What is known is how many of the keys that changed
//! within the sample were different; what is wanted is the same for longer times. Between the two stands a model of the
//! application: the updates fall evenly on a set of rows of some size, so that after `n` of them `size × (1 − e^(−n/size))`
//! different ones were hit. Real applications have rows that are hotter than others, so the true number lies below that.

/// Updates that fall on a set of rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hot {
    /// How many rows; infinite where every update is of another one.
    pub rows: f64,
}

impl Hot {
    /// The set of which `changes` updates hit `different` rows.
    pub fn seen(changes: f64, different: f64) -> Hot {
        if different >= changes * 0.999 || changes <= 0.0 {
            return Hot { rows: f64::INFINITY };
        }
        // The number of different rows grows with the size of the set, from 0 to `changes`.
        let (mut low, mut high) = (0.0, changes * 1_000.0);
        for _ in 0..80 {
            let middle = f64::midpoint(low, high);
            match (Hot { rows: middle }).different(changes) < different {
                true => low = middle,
                false => high = middle,
            }
        }
        Hot { rows: high }
    }

    /// How many different rows so many updates hit.
    pub fn different(self, changes: f64) -> f64 {
        if self.rows.is_infinite() {
            return changes;
        }
        if self.rows <= 0.0 {
            return 0.0;
        }
        -self.rows * (-changes / self.rows).exp_m1()
    }

    /// The same, of a table that has no more than so many rows.
    pub fn within(self, rows: f64) -> Hot {
        Hot { rows: self.rows.min(rows) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_is_found_again(rows in 10.0..1e6f64, share in 0.05..20.0f64) {
            let changes = rows * share;
            let found = Hot::seen(changes, Hot { rows }.different(changes));
            // Where nearly all are different, nothing tells the size; then it must be large.
            if share > 0.1 {
                prop_assert!((found.rows / rows - 1.0).abs() < 0.05, "{} of {rows}", found.rows);
            } else {
                let later = |hot: Hot| hot.different(changes * 10.0);
                prop_assert!(later(found) >= later(Hot { rows }) * 0.95, "{found:?}");
            }
        }

        #[test]
        fn never_more_than_there_are(rows in 1.0..1e6f64, changes in 0.0..1e9f64) {
            let different = Hot { rows }.different(changes);
            prop_assert!(different <= rows * 1.000_001 && different <= changes * 1.000_001 && different >= 0.0);
        }
    }

    #[test]
    fn a_set_has_its_size() {
        assert_eq!(Hot::seen(100.0, 100.0).different(1e6), 1e6);
        assert_eq!(Hot::seen(0.0, 0.0).different(5.0), 5.0);
        // A thousand changes of ten rows.
        let hot = Hot::seen(1_000.0, 10.0);
        assert!((hot.rows - 10.0).abs() < 0.01 && (hot.different(1e9) - 10.0).abs() < 0.01, "{hot:?}");
        assert_eq!(Hot { rows: f64::INFINITY }.within(7.0).rows, 7.0);
    }
}
