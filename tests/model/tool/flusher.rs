//! A flusher: a batch of keys, read again from the source in one snapshot.

use std::collections::BTreeMap;

use pgrecast::flush;
use pgrecast::stream::Key;

use super::{Broken, Done, Ended, key, number};
use crate::dice::Dice;
use crate::server::{Server, Snapshot};
use crate::tables::Redo;

/// Keys with the latest transactions known to have changed them.
pub type Keys = Vec<(Key, u64)>;

#[derive(Default)]
pub enum Flusher {
    #[default]
    Idle,
    /// Has a batch.
    Given(Keys),
    /// Has its snapshot; `since` is where the WAL ended then, and `life` the server's.
    Open { batch: Keys, snapshot: Snapshot, since: pgrecast::pg::Lsn, life: u32 },
    /// Committed: the positions of the keys whose last change it did not see.
    Flushed { batch: Keys, unseen: Vec<usize> },
}

impl Flusher {
    pub fn is_busy(&self) -> bool {
        !matches!(self, Flusher::Idle)
    }

    /// In a transaction that a lock on the shadow would wait for.
    pub fn is_open(&self, server: &Server) -> bool {
        matches!(self, Flusher::Open { life, .. } if *life == server.life)
    }

    /// A step; a batch that is flushed waits for its owner.
    pub fn step(&mut self, server: &mut Server, broken: Broken, dice: &mut Dice) -> Done {
        match std::mem::take(self) {
            given @ Flusher::Given(_) if server.exclusive => {
                *self = given;
                Ok(None)
            }
            Flusher::Given(batch) => {
                server.readers += 1;
                let (snapshot, since, life) = (server.snapshot(), server.end, server.life);
                *self = Flusher::Open { batch, snapshot, since, life };
                Ok(Some("begins a flush"))
            }
            Flusher::Open { batch, life, .. } if life != server.life => {
                *self = Flusher::Given(batch);
                Ok(Some("begins a flush anew, on another connection"))
            }
            Flusher::Open { batch, snapshot, since, .. } => {
                server.readers -= 1;
                let Some(redo) = writes(server, &batch, &snapshot, since) else {
                    *self = Flusher::Given(batch);
                    return Ok(Some("meets another flush, and begins anew"));
                };
                let lost = dice.once_in(30);
                if !lost || dice.once_in(2) {
                    server.write(redo, false);
                }
                if lost {
                    *self = Flusher::Given(batch);
                    return Ok(Some("loses the answer to a flush's COMMIT"));
                }
                let unseen = unseen(&batch, &snapshot, broken)?;
                *self = Flusher::Flushed { batch, unseen };
                Ok(Some("flushes"))
            }
            other @ (Flusher::Idle | Flusher::Flushed { .. }) => {
                *self = other;
                Ok(None)
            }
        }
    }

    /// The process dies: what was sent as a whole is carried out, or is not.
    pub fn kill(&mut self, server: &mut Server, dice: &mut Dice) {
        if let Flusher::Open { batch, snapshot, since, life } = std::mem::take(self)
            && life == server.life
            && dice.once_in(2)
            && let Some(redo) = writes(server, &batch, &snapshot, since)
        {
            server.write(redo, false);
        }
    }
}

fn unseen(batch: &Keys, snapshot: &Snapshot, broken: Broken) -> Result<Vec<usize>, Ended> {
    let read = flush::Snapshot::parse(&snapshot.text()).ok_or_else(|| Ended::Wrong("an unreadable snapshot".into()))?;
    let xids: Vec<u64> = batch.iter().map(|(_, xid)| *xid).collect();
    Ok(if broken == Broken::RetiresUnseen { Vec::new() } else { read.unseen(&xids) })
}

/// What a flush writes: `None` where a row of the shadow was written by another since its snapshot, which the server does
/// not let pass under REPEATABLE READ. A row that another has removed is simply not there.
fn writes(server: &Server, batch: &Keys, snapshot: &Snapshot, since: pgrecast::pg::Lsn) -> Option<Vec<Redo>> {
    let mut redo = Vec::new();
    for (changed, _) in batch {
        let key = number(changed);
        let source = server.rows(snapshot).find(|row| row.key == key);
        let shadow = server.tables.shadow.iter().find(|row| row.key == key);
        match (source, shadow) {
            (Some(_), Some(shadow)) if shadow.changed >= since => return None,
            (Some(source), _) => redo.push(Redo::Put(key, source.value)),
            // Not to be seen, hence not removed.
            (None, Some(shadow)) if shadow.created >= since => {}
            (None, Some(shadow)) if shadow.changed >= since => return None,
            (None, Some(_)) => redo.push(Redo::Remove(key)),
            (None, None) => {}
        }
    }
    Some(redo)
}

/// What the flush under the lock writes: everything committed is visible.
pub fn final_writes(server: &Server, keys: &[Key]) -> Vec<Redo> {
    let snapshot = server.snapshot();
    let write = |key: u8| match server.rows(&snapshot).find(|row| row.key == key) {
        Some(row) => Redo::Put(key, row.value),
        None => Redo::Remove(key),
    };
    keys.iter().map(|changed| write(number(changed))).collect()
}

/// Keys of a journal generation, in their order, each once with the transaction that is not to be seen yet.
pub fn unflushed(rows: &[(u8, u64)], server: &Server) -> Keys {
    let snapshot = server.snapshot();
    let mut keys = BTreeMap::new();
    for (number, xid) in rows {
        let known = keys.entry(*number).or_insert(0);
        if *xid != 0 && !snapshot.ended(*xid) {
            *known = (*known).max(*xid);
        }
    }
    keys.into_iter().map(|(number, xid)| (key(number), xid)).collect()
}
