//! What is known of every bucket of key hashes, and which buckets are to be looked into. Pure.

use super::statements::Side;

/// The fewest and the most bits of a bucket's number: the sums take 256 KiB and 16 MiB.
const BITS: (u32, u32) = (14, 20);

/// Rows of a bucket aimed at. Fewer would cost the server more groups a chunk, more would let each change that comes
/// between the reading of the two sides put more rows under suspicion.
const ROWS: u64 = 1_024;

/// Bits of a bucket's number for so many rows.
pub fn bits(rows: u64) -> u32 {
    (rows / ROWS).max(1).ilog2().clamp(BITS.0, BITS.1)
}

/// One bucket's rows in one chunk.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// The bucket.
    pub bucket: u32,
    /// Its rows.
    pub rows: u64,
    /// Exclusive or of their digests.
    pub digest: u64,
}

/// Both sides' sums, which cancel out where the sides are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums {
    buckets: Vec<Sum>,
}

/// Bytes of a bucket's sum.
const SUM_BYTES: usize = 16;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    digest: u64,
    source: u32,
    shadow: u32,
}

impl Sums {
    /// Nothing read.
    pub fn new(bits: u32) -> Self {
        Sums { buckets: vec![Sum::default(); 1 << bits] }
    }

    /// Adds one group of a side.
    pub fn add(&mut self, side: Side, group: Group) {
        let Some(sum) = self.buckets.get_mut(group.bucket as usize) else { return };
        sum.digest ^= group.digest;
        let rows = match side {
            Side::Source => &mut sum.source,
            Side::Shadow => &mut sum.shadow,
        };
        // Saturation would take 2^46 rows at least.
        *rows = rows.saturating_add(u32::try_from(group.rows).unwrap_or(u32::MAX));
    }

    /// Adds what others have summed.
    pub fn absorb(&mut self, other: &Sums) {
        for (sum, more) in self.buckets.iter_mut().zip(&other.buckets) {
            sum.digest ^= more.digest;
            sum.source = sum.source.saturating_add(more.source);
            sum.shadow = sum.shadow.saturating_add(more.shadow);
        }
    }

    /// Their size as bytes.
    pub fn size(&self) -> u64 {
        (self.buckets.len() * SUM_BYTES) as u64
    }

    /// As bytes: for each bucket its digest, its rows in the source, its rows in the shadow, little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.buckets.len() * SUM_BYTES);
        for sum in &self.buckets {
            bytes.extend(sum.digest.to_le_bytes());
            bytes.extend(sum.source.to_le_bytes());
            bytes.extend(sum.shadow.to_le_bytes());
        }
        bytes
    }

    /// Reads them again; `None` where they are not those of 2^`bits` buckets.
    pub fn from_bytes(bits: u32, bytes: &[u8]) -> Option<Self> {
        let mut sums = (BITS.0..=BITS.1).contains(&bits).then(|| Sums::new(bits))?;
        if bytes.len() as u64 != sums.size() {
            return None;
        }
        for (sum, bytes) in sums.buckets.iter_mut().zip(bytes.chunks_exact(SUM_BYTES)) {
            let (digest, rows) = bytes.split_first_chunk()?;
            let (source, rows) = rows.split_first_chunk()?;
            let (shadow, _) = rows.split_first_chunk()?;
            *sum = Sum {
                digest: u64::from_le_bytes(*digest),
                source: u32::from_le_bytes(*source),
                shadow: u32::from_le_bytes(*shadow),
            };
        }
        Some(sums)
    }

    /// The buckets that differ.
    pub fn suspects(&self) -> Suspects {
        let differ = |sum: &Sum| sum.digest != 0 || sum.source != sum.shadow;
        let buckets = self.buckets.iter().zip(0..).filter(|(sum, _)| differ(sum));
        Suspects {
            of: self.buckets.len(),
            buckets: buckets.map(|(sum, number)| (number, sum.source.max(sum.shadow))).collect(),
        }
    }
}

/// Buckets that differ, each with its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspects {
    of: usize,
    buckets: Vec<(u32, u32)>,
}

impl Suspects {
    /// Rows in them.
    pub fn rows(&self) -> u64 {
        self.buckets.iter().map(|(_, rows)| u64::from(*rows)).sum()
    }

    /// Their share of all buckets, from 0 to 1.
    pub fn share(&self) -> f64 {
        self.buckets.len() as f64 / self.of as f64
    }

    /// As the server's `get_bit` reads it (PostgreSQL manual, 9.5): the lowest bit of the first byte is bucket 0.
    pub fn bitmap(&self) -> Vec<u8> {
        let mut bitmap = vec![0; self.of.div_ceil(8)];
        for (bucket, _) in &self.buckets {
            bitmap[*bucket as usize / 8] |= 1 << (bucket % 8);
        }
        bitmap
    }

    /// Parts of at most `most` rows each; a bucket that has more is a part of its own.
    pub fn slices(&self, most: u64) -> Vec<Suspects> {
        let mut slices: Vec<Suspects> = Vec::new();
        let mut rows = 0;
        for bucket in &self.buckets {
            rows += u64::from(bucket.1);
            match slices.last_mut() {
                Some(slice) if rows <= most => slice.buckets.push(*bucket),
                _ => {
                    slices.push(Suspects { of: self.of, buckets: vec![*bucket] });
                    rows = u64::from(bucket.1);
                }
            }
        }
        slices
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sums(groups: &[(Side, Group)]) -> Sums {
        let mut sums = Sums::new(BITS.0);
        for (side, group) in groups {
            sums.add(*side, *group);
        }
        sums
    }

    fn group(bucket: u32, rows: u64, digest: u64) -> Group {
        Group { bucket, rows, digest }
    }

    #[test]
    fn the_number_of_buckets_follows_the_rows() {
        assert_eq!([0, 3_000_000, 100_000_000, u64::MAX].map(bits), [14, 14, 16, 20]);
    }

    #[test]
    fn equal_digests_of_unequal_counts_differ() {
        let twice = sums(&[(Side::Source, group(3, 1, 0)), (Side::Shadow, group(3, 3, 0))]);
        assert_eq!(twice.suspects().buckets, [(3, 3)]);
    }

    #[test]
    fn bits_of_the_bitmap_are_where_the_server_looks_for_them() {
        let bitmap = sums(&[(Side::Source, group(0, 1, 7)), (Side::Shadow, group(9, 1, 7))]).suspects().bitmap();
        assert_eq!((bitmap.len(), bitmap[0], bitmap[1]), (1 << 11, 1, 2));
    }

    #[test]
    fn sums_that_were_kept_are_what_they_were() {
        let kept = sums(&[(Side::Source, group(3, 1, u64::MAX - 1)), (Side::Shadow, group((1 << 14) - 1, 7, 5))]);
        let bytes = kept.to_bytes();
        assert_eq!(Sums::from_bytes(BITS.0, &bytes), Some(kept.clone()));
        assert_eq!(Sums::from_bytes(BITS.0 + 1, &bytes), None);
        assert_eq!(Sums::from_bytes(BITS.0, &bytes[1..]), None);
        assert_eq!(Sums::from_bytes(63, &bytes), None);
        // What was read before and what was read since are one reading.
        let mut whole = sums(&[(Side::Shadow, group(3, 1, u64::MAX - 1))]);
        whole.absorb(&kept);
        assert_eq!(
            whole,
            sums(&[
                (Side::Source, group(3, 1, 0)),
                (Side::Shadow, group(3, 1, 0)),
                (Side::Shadow, group((1 << 14) - 1, 7, 5))
            ])
        );
    }

    proptest! {
        #[test]
        fn sides_that_were_cut_into_other_chunks_are_equal(
            rows in prop::collection::vec((0u32..1 << 14, any::<u64>()), 0..200),
            order in any::<prop::sample::Index>(),
            planted in prop::option::of((0u32..1 << 14, 1u64..)),
        ) {
            let mut sums = Sums::new(BITS.0);
            for (bucket, digest) in &rows {
                sums.add(Side::Source, group(*bucket, 1, *digest));
            }
            let mut turned = rows.clone();
            if !turned.is_empty() {
                let by = order.index(turned.len());
                turned.rotate_left(by);
            }
            for (bucket, digest) in &turned {
                sums.add(Side::Shadow, group(*bucket, 1, *digest));
            }
            if let Some((bucket, digest)) = planted {
                sums.add(Side::Shadow, group(bucket, 0, digest));
            }
            let found: Vec<u32> = sums.suspects().buckets.iter().map(|(bucket, _)| *bucket).collect();
            prop_assert_eq!(found, planted.iter().map(|(bucket, _)| *bucket).collect::<Vec<_>>());
        }

        #[test]
        fn slices_hold_every_bucket_once_and_no_more_rows_than_they_may(
            rows in prop::collection::vec(1u32..100, 0..300),
            most in 1u64..200,
        ) {
            let all = Suspects { of: 1 << 14, buckets: rows.iter().zip(0..).map(|(r, n)| (n, *r)).collect() };
            let slices = all.slices(most);
            prop_assert!(slices.iter().all(|s| s.rows() <= most || s.buckets.len() == 1));
            let together: Vec<(u32, u32)> = slices.iter().flat_map(|s| s.buckets.clone()).collect();
            prop_assert_eq!(together, all.buckets);
        }
    }
}
