//! What a snapshot sees as finished (rule 5). Pure.
//!
//! The text form is `xmin:xmax:xip,…` (`pg_snapshot`, PostgreSQL manual, 9.27.8).

/// A snapshot, in 64-bit transaction ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    running: Vec<u64>,
}

impl Snapshot {
    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Snapshot> {
        let mut parts = text.split(':');
        let xmin = parts.next()?.parse().ok()?;
        let xmax = parts.next()?.parse().ok()?;
        let list = parts.next()?;
        let running = list.split(',').filter(|x| !x.is_empty()).map(|x| x.parse().ok()).collect::<Option<_>>()?;
        parts.next().is_none().then_some(Snapshot { xmin, xmax, running })
    }

    /// Whether the top-level transaction had ended, visibly, when the snapshot was taken.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && !self.running.contains(&xid))
    }

    /// Which of these transactions it does not see, by their positions; 0 stands for one known to be visible.
    pub fn unseen(&self, xids: &[u64]) -> Vec<usize> {
        xids.iter().enumerate().filter(|(_, xid)| **xid != 0 && !self.sees(**xid)).map(|(i, _)| i).collect()
    }

    /// One past the highest transaction id that had ended.
    pub fn xmax(&self) -> u64 {
        self.xmax
    }
}

/// The 64-bit id of a 32-bit one that is at most 2^31 away from `near`.
pub fn widen(xid: u32, near: u64) -> u64 {
    let distance = i64::from(xid.wrapping_sub(near as u32).cast_signed());
    near.saturating_add_signed(distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_sees_what_ended_before_it() {
        let s = Snapshot::parse("10:20:12,15").expect("parses");
        assert!(s.sees(9) && s.sees(11) && s.sees(19));
        assert!(!s.sees(12) && !s.sees(15) && !s.sees(20) && !s.sees(21));
        assert_eq!(Snapshot::parse("10:10:").map(|s| s.sees(10)), Some(false));
        assert_eq!(Snapshot::parse("10:20"), None);
    }

    #[test]
    fn what_is_known_to_be_visible_is_never_unseen() {
        let s = Snapshot::parse("10:20:12").expect("parses");
        assert_eq!(s.unseen(&[12, 0, 9, 25]), [0, 3]);
    }

    #[test]
    fn ids_widen_across_an_epoch() {
        let epoch = 1u64 << 32;
        assert_eq!(widen(5, epoch + 10), epoch + 5);
        assert_eq!(widen(u32::MAX, epoch + 10), epoch - 1);
        assert_eq!(widen(3, epoch - 2), epoch + 3);
        assert_eq!(widen(700, 750), 700);
    }
}
