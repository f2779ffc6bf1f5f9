//! What several tables that are swapped together are locked by, in one order. Pure.

use crate::ties::Carry;

/// The locks of all, each once: what comes before a table by the ties of any of them, the tables themselves, those that
/// refer before those they refer to, and what comes behind. With one table these are [`Carry::locks`].
pub fn locks(carries: &[Carry<'_>]) -> Vec<String> {
    let own: Vec<String> = in_order(carries).iter().map(|carry| carry.own_lock()).collect();
    let (mut before, mut behind) = (Vec::new(), Vec::new());
    for carry in carries {
        let mut place = &mut before;
        for lock in carry.locks() {
            if lock == carry.own_lock() {
                place = &mut behind;
            } else if !own.contains(&lock) {
                place.push(lock);
            }
        }
    }
    behind.retain(|lock| !before.contains(lock));
    let mut all: Vec<String> = Vec::new();
    for lock in before.into_iter().chain(own).chain(behind) {
        if !all.contains(&lock) {
            all.push(lock);
        }
    }
    all
}

/// Tables of which autovacuum is to keep away, as LOCK TABLE calls them.
pub fn tables(carries: &[Carry<'_>]) -> Vec<String> {
    let own: Vec<String> = in_order(carries).iter().map(|carry| carry.plan.whole_source()).collect();
    let mut beside: Vec<String> = carries.iter().flat_map(Carry::tables).filter(|table| !own.contains(table)).collect();
    beside.sort();
    beside.dedup();
    own.into_iter().chain(beside).collect()
}

/// Tables that refer to others first; where they refer to each other in a circle, by their names.
fn in_order<'c, 'a>(carries: &'c [Carry<'a>]) -> Vec<&'c Carry<'a>> {
    let oid = |carry: &Carry<'_>| carry.plan.source.oid;
    let refers = |from: &Carry<'_>, to: u32| from.ties.outgoing.iter().any(|key| key.refers_to.oid == to);
    let mut left: Vec<&Carry<'a>> = carries.iter().collect();
    left.sort_by_key(|carry| carry.plan.source.name.plain());
    let mut ordered = Vec::new();
    while !left.is_empty() {
        let nobodys = |carry: &&Carry<'a>| !left.iter().any(|o| oid(o) != oid(carry) && refers(o, oid(carry)));
        let next = left.iter().position(nobodys).unwrap_or(0);
        ordered.push(left.remove(next));
    }
    ordered
}
