//! Hashes of values as SQL. Pure.
//!
//! The server's extended hash functions take a 64-bit seed, and every column has its own, so that a value that moves
//! to another column changes the row's digest. `hashint8extended` folds its argument to 32 bits before it hashes
//! (`src/backend/access/hash/hashfunc.c`), as do the functions of the date and time types: with it 1 and 2^32 are one
//! value. As a *seed* all 64 bits count, so a 64-bit value is hashed as the seed of a constant.

/// `pg_type.oid` of the types that have a faster way than through text (`src/include/catalog/pg_type.dat`).
mod oid {
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const FLOAT4: u32 = 700;
    pub const FLOAT8: u32 = 701;
    pub const BPCHAR: u32 = 1042;
    pub const DATE: u32 = 1082;
    pub const TIME: u32 = 1083;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const UUID: u32 = 2950;
}

/// The 64-bit hash of `value`, SQL of the type `type_oid`, as the `n`th input of a row; never NULL.
///
/// Values of equal hash are the same to the last byte of their text form, save for the trailing blanks of
/// `character(n)`, which mean nothing.
pub fn value(value: &str, type_oid: u32, n: usize) -> String {
    let seed = seed(n);
    let text = |text: String| format!("pg_catalog.hashtextextended({text} COLLATE \"C\", {seed})");
    // The binary form is exact and cheaper than text.
    let binary = |send: &str| text(format!("pg_catalog.encode(pg_catalog.{send}({value}), 'hex')"));
    let hash = match type_oid {
        oid::BOOL => format!("pg_catalog.hashint4extended(({value})::int4, {seed})"),
        oid::INT2 => format!("pg_catalog.hashint2extended({value}, {seed})"),
        oid::INT4 => format!("pg_catalog.hashint4extended({value}, {seed})"),
        oid::INT8 => mix(value, n),
        oid::UUID => format!("pg_catalog.uuid_hash_extended({value}, {seed})"),
        oid::BPCHAR => format!("pg_catalog.hashbpcharextended(({value}) COLLATE \"C\", {seed})"),
        oid::BYTEA => text(format!("pg_catalog.encode({value}, 'hex')")),
        oid::FLOAT4 => binary("float4send"),
        oid::FLOAT8 => binary("float8send"),
        oid::DATE => binary("date_send"),
        oid::TIME => binary("time_send"),
        oid::TIMESTAMP => binary("timestamp_send"),
        oid::TIMESTAMPTZ => binary("timestamptz_send"),
        _ => text(format!("({value})::text")),
    };
    // COALESCE looks at the value itself: a composite of NULLs is not NULL.
    format!("COALESCE({hash}, {})", seed ^ NULL)
}

/// One 64-bit hash of several, each of another input of the row. Exclusive or alone would let two rows trade a value
/// unseen; what is mixed afterwards depends on all inputs at once.
pub fn combine(hashes: &[String], n: usize) -> String {
    match hashes {
        [one] => one.clone(),
        several => mix(&several.join(" # "), n),
    }
}

fn mix(bits: &str, n: usize) -> String {
    format!("pg_catalog.hashint4extended({}, {bits})", seed(n) >> 32)
}

/// Turns a column's seed into what stands for its NULL.
const NULL: u64 = 0x2545_f491_4f6c_dd1d;

/// A seed for each input, of 63 bits so that it can be written as it is (the output function of SplitMix64).
fn seed(n: usize) -> u64 {
    let mut z = (n as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) >> 1
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_column_has_its_own_seeds() {
        // The largest table has 1600 columns; a key may have 32 more.
        let columns = 0..1_632;
        assert_eq!(columns.clone().map(seed).collect::<HashSet<_>>().len(), 1_632);
        assert_eq!(columns.clone().map(|n| seed(n) >> 32).collect::<HashSet<_>>().len(), 1_632);
        assert!(columns.clone().all(|n| seed(n) ^ NULL <= u64::try_from(i64::MAX).expect("positive")));
        assert!(columns.clone().all(|n| seed(n) >> 32 <= u64::try_from(i32::MAX).expect("positive")));
    }

    #[test]
    fn a_type_without_a_way_of_its_own_goes_through_text() {
        let sql = value("\"price\"", 1700, 0);
        assert!(sql.contains("hashtextextended((\"price\")::text COLLATE \"C\""), "{sql}");
    }
}
