//! In which order several tables are locked. Pure.
//!
//! An application that writes two of them in one transaction holds the first while it asks for the second. Asked for the
//! other way round, under traffic there is always such a transaction, and neither gets on until our wait ends. No order
//! is right for every application, so it is learned: what could not be had comes first the next time.

/// What was learned in the attempts so far.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Locks that could not be had, the last one first.
    first: Vec<String>,
}

impl Order {
    /// The same locks in the order in which to ask for them.
    pub fn of(&self, mut locks: Vec<String>) -> Vec<String> {
        locks.sort_by_key(|lock| self.first.iter().position(|first| first == lock).unwrap_or(usize::MAX));
        locks
    }

    /// This one could not be had while those before it were held.
    pub fn failed(&mut self, lock: &str) {
        self.first.retain(|first| first != lock);
        self.first.insert(0, lock.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_had_comes_first() {
        let locks = || ["child", "source", "parent"].map(str::to_owned).to_vec();
        let mut order = Order::default();
        assert_eq!(order.of(locks()), locks());
        order.failed("source");
        assert_eq!(order.of(locks()), ["source", "child", "parent"]);
        order.failed("parent");
        order.failed("source");
        assert_eq!(order.of(locks()), ["source", "parent", "child"]);
    }
}
