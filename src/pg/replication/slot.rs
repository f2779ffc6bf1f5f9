//! The command that makes a slot (manual 55.4, `CREATE_REPLICATION_SLOT`), in the words of each major version.

use crate::pg::{Error, Ident, Lsn};

pub(super) const CREATE_SLOT: &str = "create replication slot";

/// How a logical slot is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotOptions {
    /// Gone with the connection.
    pub temporary: bool,
    /// Kept on standbys as well, from PostgreSQL 17.
    pub failover: bool,
}

/// A slot that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Its name.
    pub name: String,
    /// Every transaction that commits after this is in its stream, and none that committed before.
    pub consistent_point: Lsn,
}

/// The command for this server: without a snapshot, since rows are copied under snapshots of their own.
pub(super) fn command(name: &str, options: SlotOptions, server_major: u32) -> Result<String, Error> {
    let temporary = if options.temporary { " TEMPORARY" } else { "" };
    let words = match (server_major, options.failover) {
        (..17, true) => {
            let message = format!("PostgreSQL {server_major} has no failover slots");
            let hint = Some("Leave the failover option off, or use PostgreSQL 17 or later.".to_owned());
            return Err(Error { hint, ..Error::client(CREATE_SLOT, message) });
        }
        (..15, false) => "NOEXPORT_SNAPSHOT",
        (15.., false) => "(SNAPSHOT 'nothing')",
        (17.., true) => "(SNAPSHOT 'nothing', FAILOVER)",
    };
    Ok(format!("CREATE_REPLICATION_SLOT {}{temporary} LOGICAL pgoutput {words}", Ident(name)))
}

/// The server's answer: slot name, consistent point, snapshot name, output plugin.
pub(super) fn created(rows: &[Vec<Option<String>>]) -> Option<CreatedSlot> {
    let [row] = rows else { return None };
    let [Some(name), Some(point), ..] = &row[..] else { return None };
    Some(CreatedSlot { name: name.clone(), consistent_point: point.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_major_is_addressed_in_its_own_words() {
        let plain = SlotOptions::default();
        let temporary = SlotOptions { temporary: true, failover: false };
        let failover = SlotOptions { temporary: false, failover: true };
        let made = |options, major| command("s", options, major).ok();
        let expected = |text: &str| Some(format!("CREATE_REPLICATION_SLOT \"s\" {text}"));
        assert_eq!(made(plain, 14), expected("LOGICAL pgoutput NOEXPORT_SNAPSHOT"));
        assert_eq!(made(temporary, 15), expected("TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')"));
        assert_eq!(made(failover, 17), expected("LOGICAL pgoutput (SNAPSHOT 'nothing', FAILOVER)"));
        assert_eq!(made(failover, 16), None);
    }

    #[test]
    fn an_answer_without_a_position_is_none() {
        let text = |text: &str| Some(text.to_owned());
        let slot = CreatedSlot { name: "s".to_owned(), consistent_point: Lsn(0x15) };
        assert_eq!(created(&[vec![text("s"), text("0/15"), None, text("pgoutput")]]), Some(slot));
        assert_eq!(created(&[vec![text("s"), text("x")]]), None);
        assert_eq!(created(&[vec![text("s")]]), None);
        assert_eq!(created(&[]), None);
    }
}
