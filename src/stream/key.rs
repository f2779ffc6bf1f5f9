//! The key of a changed row, as the journal and the flushers hold it by the million.

use std::fmt;

/// The text forms of a row's key columns, in the order of the key.
///
/// One string: the columns joined by zero bytes, which no text of PostgreSQL can hold. So it takes one allocation, and
/// keys sort column by column, bytewise: an order of its own, not that of the columns' types.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<str>);

/// What a general-purpose allocator takes at least, and in what steps, its own header included.
const LEAST_ALLOCATION_BYTES: usize = 32;
const ALLOCATION_STEP_BYTES: usize = 16;
const ALLOCATION_HEADER_BYTES: usize = 8;

impl Key {
    /// A key of these columns, of which there must be one at least; `None` where there is none or one holds a zero
    /// byte.
    pub fn new<'a>(columns: impl IntoIterator<Item = &'a str>) -> Option<Key> {
        let mut columns = columns.into_iter();
        let mut joined = columns.next().filter(|first| !first.contains('\0'))?.to_owned();
        for column in columns {
            if column.contains('\0') {
                return None;
            }
            joined.push('\0');
            joined.push_str(column);
        }
        Some(Key(joined.into_boxed_str()))
    }

    /// The text form of each key column.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.split('\0')
    }

    /// The heap memory behind this key in bytes, the allocator's share estimated, for memory budgets.
    pub fn heap_bytes(&self) -> usize {
        match self.0.len() {
            0 => 0,
            length => {
                (length + ALLOCATION_HEADER_BYTES).next_multiple_of(ALLOCATION_STEP_BYTES).max(LEAST_ALLOCATION_BYTES)
            }
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.columns().collect::<Vec<_>>()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_has_a_column_and_no_zero_byte() {
        assert_eq!(Key::new([]), None);
        assert_eq!(Key::new(["a\0b"]), None);
        assert_eq!(Key::new(["a", "\0"]), None);
    }

    #[test]
    fn memory_is_counted_as_the_allocator_takes_it() {
        let bytes = |text: &str| Key::new([text]).map(|key| key.heap_bytes());
        assert_eq!(bytes(""), Some(0));
        assert_eq!(bytes("1"), Some(32));
        assert_eq!(bytes(&"x".repeat(36)), Some(48));
    }

    proptest! {
        #[test]
        fn columns_come_back_and_sort_column_by_column(
            a in prop::collection::vec("[^\\x00]{0,3}", 2),
            b in prop::collection::vec("[^\\x00]{0,3}", 2),
        ) {
            let key = |columns: &[String]| Key::new(columns.iter().map(String::as_str)).expect("no zero byte");
            prop_assert!(key(&a).columns().eq(a.iter()));
            prop_assert_eq!(key(&a) == key(&b), a == b);
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
        }
    }
}
