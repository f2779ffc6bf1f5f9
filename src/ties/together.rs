//! Ties of tables that are swapped together: each is carried once, by one of them, when all new tables have their names.
//! Pure.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use super::views::{self, Fate};
use super::{Rule, Ties, View};
use crate::plan::types::Plan;
use crate::preflight::Finding;

/// Leaves each tie with one of the tables: a foreign key with the one that has it, what belongs to one of them with that
/// one. Views that read several are carried with all other views by the last.
pub fn share(all: &mut [Ties], plans: &[&Plan]) {
    if all.len() < 2 {
        return;
    }
    let outgoing: HashSet<(u32, String)> =
        all.iter().flat_map(|ties| &ties.outgoing).map(|key| (key.table.oid, key.name.clone())).collect();
    for ties in all.iter_mut() {
        ties.incoming.retain(|key| !outgoing.contains(&(key.table.oid, key.name.clone())));
    }
    if !shared_views(all).is_empty() {
        gather_views(all, plans);
    }
    once(all, |ties| &mut ties.policies, |p| (p.oid, p.name.clone()), |p| p.own);
    once(all, |ties| &mut ties.rules, |r| (r.oid, r.name.clone()), |r| r.own);
    once(all, |ties| &mut ties.functions, |f| f.oid, |f| f.typed);
    once(all, |ties| &mut ties.defaults, |d| d.what(), |_| true);
}

impl Ties {
    /// Those to the outside of these tables: a foreign key between two of them has both its ends changed.
    pub fn outside(&self, tables: &[u32]) -> Ties {
        let mut outside = self.clone();
        outside.outgoing.retain(|key| key.is_to_itself() || !tables.contains(&key.refers_to.oid));
        outside.incoming.retain(|key| !tables.contains(&key.table.oid));
        outside
    }
}

/// Leaves each with the first who has it, or the first who has it as its own.
fn once<T, K: Hash + Eq>(all: &mut [Ties], list: fn(&mut Ties) -> &mut Vec<T>, key: fn(&T) -> K, own: fn(&T) -> bool) {
    let mut carriers: HashMap<K, (usize, bool)> = HashMap::new();
    for (n, ties) in all.iter_mut().enumerate() {
        for item in list(ties).iter() {
            let carrier = carriers.entry(key(item)).or_insert((n, own(item)));
            if own(item) && !carrier.1 {
                *carrier = (n, true);
            }
        }
    }
    for (n, ties) in all.iter_mut().enumerate() {
        list(ties).retain(|item| carriers.get(&key(item)).is_some_and(|carrier| carrier.0 == n));
    }
}

/// Oids of views that read more than one of the tables.
fn shared_views(all: &[Ties]) -> HashSet<u32> {
    let mut seen = HashSet::new();
    all.iter().flat_map(|ties| &ties.views).filter(|view| !seen.insert(view.oid)).map(|view| view.oid).collect()
}

/// All views go to the last table, with the rules on them. One whose columns another table retypes is made again.
fn gather_views(all: &mut [Ties], plans: &[&Plan]) {
    let mut left: Vec<View> = Vec::new();
    let mut rules: Vec<Rule> = Vec::new();
    for (ties, plan) in all.iter_mut().zip(plans) {
        let fates = views::fates(plan, ties);
        for (mut view, fate) in std::mem::take(&mut ties.views).into_iter().zip(fates) {
            view.retyped |= fate == Fate::Remade;
            // They are columns of another table than the one that carries it.
            view.mentions.clear();
            match left.iter_mut().find(|v| v.oid == view.oid) {
                None => left.push(view),
                Some(there) => {
                    there.retyped |= view.retyped;
                    there.direct |= view.direct;
                    there.uses.extend(view.uses);
                }
            }
        }
        let of_views = ties.rules.extract_if(.., |rule| rule.of_view);
        for rule in of_views {
            if !rules.iter().any(|r| (r.oid, &r.name) == (rule.oid, &rule.name)) {
                rules.push(rule);
            }
        }
    }
    let Some(last) = all.last_mut() else { return };
    last.rules.extend(rules);
    // Nearest first: each behind those that it reads.
    while !left.is_empty() {
        let reads = |view: &View| left.iter().any(|other| view.uses.contains(&other.oid));
        let next = left.iter().position(|view| !reads(view)).unwrap_or(0);
        last.views.push(left.remove(next));
    }
}

/// What cannot be left with one of the tables: a materialized view is filled from one shadow before the swap, and what
/// reads it or is read by it is made with it.
pub fn tied_to_several(all: &[Ties]) -> Vec<Finding> {
    let shared = shared_views(all);
    if !all.iter().flat_map(|ties| &ties.views).any(|view| view.stored.is_some()) {
        return Vec::new();
    }
    let mut named = HashSet::new();
    let views = all.iter().flat_map(|ties| &ties.views);
    let views = views.filter(|view| shared.contains(&view.oid) && named.insert(view.oid));
    let finding = |view: &View| {
        Finding::new(
            format!("{} reads several of the tables, on which there are materialized views", view.plain()),
            "Tables that are swapped together do not carry both: drop it, or the materialized views, for the time.",
        )
    };
    views.map(finding).collect()
}
