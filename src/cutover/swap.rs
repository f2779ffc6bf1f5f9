//! The SQL of the swap. Pure.
//!
//! Nothing here rewrites or scans a table: every statement changes the catalog only, so the time under the lock does
//! not grow with the table.

use std::collections::{HashMap, HashSet};

use super::acl::Acl;
use crate::finish;
use crate::pg::sql::name_with_suffix;
use crate::pg::{Ident, Literal, QualifiedName};
use crate::plan::ddl::{self, free_name};
use crate::plan::shape::{Column, Sequence, Shape};
use crate::plan::types::{Member, Names, OldNames, Plan};
use crate::prepare;
use crate::published;
use crate::state::{Phase, Store};
use crate::ties::Carry;

/// What the swap rests on besides the plan, read just before it.
pub struct Swap<'a> {
    /// The migration.
    pub id: i32,
    /// Its plan.
    pub plan: &'a Plan,
    /// Its names.
    pub names: &'a Names,
    /// Names of relations in the schemas of the source and its partitions, and those that others give in this swap.
    pub taken: Vec<String>,
    /// Grants on the source and each of its partitions, and what their shadows have from default privileges.
    pub acls: &'a [Acl],
    /// The same for the parts and tables of values.
    pub part_acls: &'a [Acl],
    /// What is tied to the source.
    pub carry: Carry<'a>,
    /// The role that swaps.
    pub role: &'a str,
    /// `server_version_num`.
    pub version: u32,
}

impl Swap<'_> {
    /// The old names of everything that makes room, each free beside the relations there are and the others.
    fn old_names(&self) -> Moved {
        let suffix = if self.names.are_backwards() { "_new" } else { "_old" };
        let mut taken: HashSet<String> = self.taken.iter().cloned().collect();
        let mut chosen = Moved::new();
        for source in self.plan.sources() {
            let sequences = leaving_sequences(self.plan, source).map(|s| s.name.name.as_str());
            let indexes = source.indexes.iter().map(|i| i.name.as_str());
            for name in std::iter::once(source.name.name.as_str()).chain(indexes).chain(sequences) {
                let old = free_name(name, suffix, |n| taken.contains(n));
                taken.insert(old.clone());
                chosen.insert(name.to_owned(), old);
            }
        }
        chosen
    }

    /// The names that it gives to what makes room.
    pub fn given_names(&self) -> impl Iterator<Item = String> {
        self.old_names().into_values()
    }

    /// The new table takes the place of the old one.
    fn trade(&self) -> Vec<String> {
        let members = self.plan.members(self.names);
        let moved = self.old_names();
        let mut steps = Vec::new();
        steps.extend(self.plan.sources().flat_map(|source| old_away(self.plan, source, &moved)));
        steps.extend(self.carry.swap_statistics(self.names, |s| name_with_suffix(&s.name, &self.old_suffix())));
        for (member, acl) in members.iter().zip(self.acls) {
            steps.extend(new_in(member));
            if member.target.owner != self.role {
                let owner = Ident(&member.target.owner);
                steps.push(format!("ALTER TABLE {} OWNER TO {owner}", member.target.name));
            }
            steps.extend(self.sequences(member, &moved));
            steps.extend(settings(member));
            steps.extend(acl.statements(self.plan, member));
        }
        steps.extend(ddl::generated_always(&self.plan.target, &self.plan.target.name.to_string()));
        for ((plan, names), acl) in self.plan.beside(self.names).iter().zip(self.part_acls) {
            steps.extend(self.part(plan, names, acl, &moved));
        }
        steps.extend(self.references());
        steps.extend(self.compat_view());
        steps.extend(self.carry.former());
        steps.extend(self.given_by_all(&moved));
        steps.extend(self.carry.take_place(self.names, &self.old(&moved)));
        steps
    }

    fn old(&self, moved: &Moved) -> QualifiedName {
        self.plan.source.name.sibling(old_name(moved, &self.plan.source.name.name))
    }

    /// Once all new tables have their names.
    fn settle(&self) -> Vec<String> {
        let moved = self.old_names();
        let old = self.old(&moved);
        let mut steps = self.carry.take_hold(self.names);
        steps.extend(self.way_back(&old));
        steps.extend(self.managed());
        steps.push(format!(
            "UPDATE pgrecast.migration SET old_table = {}, to_validate = {}::jsonb, old_names = {}::jsonb, \
             swapped_at = clock_timestamp() WHERE id = {}",
            Literal(&old.plain()),
            Literal(&serde_json::json!(self.owed()).to_string()),
            Literal(&serde_json::json!(self.own_old_names(&moved)).to_string()),
            self.id
        ));
        steps
    }

    /// From here on the new table is followed. What hung on the old one by text is gone from it: what is written to it
    /// must not fire anything, and a swap back brings it again from the new table.
    fn way_back(&self, old: &QualifiedName) -> Vec<String> {
        let Some(back) = &self.plan.back else { return Vec::new() };
        let mut steps = self.carry.strip(old, |s| name_with_suffix(&s.name, &self.old_suffix()));
        steps.extend(ddl::generated_by_default(&self.plan.source, &old.to_string()));
        steps.push(format!(
            "ALTER PUBLICATION {} ADD TABLE {}",
            Ident(&self.names.back_publication()),
            prepare::published(back, self.version).join(", ")
        ));
        steps
    }

    /// pg_partman learns of the table with the swap, and forgets it with the swap back.
    fn managed(&self) -> Option<String> {
        let managed = self.plan.managed.as_ref()?;
        Some(match self.names.are_backwards() {
            false => managed.register_sql(self.plan.back.is_some()),
            true => managed.forget_sql(),
        })
    }

    /// The names under which the way back will find the old table and what is its own.
    fn own_old_names(&self, moved: &Moved) -> OldNames {
        let partitions =
            self.plan.partitions.iter().map(|p| own_old_names(self.plan, &p.branch.shape, moved)).collect();
        OldNames { partitions, ..own_old_names(self.plan, &self.plan.source, moved) }
    }

    fn old_suffix(&self) -> String {
        format!("_old_{}", self.id)
    }

    /// Own sequences get their names and the values of those they stand for; a serial's sequence changes its table.
    pub(super) fn sequences(&self, member: &Member<'_>, moved: &Moved) -> Vec<String> {
        let table = member.target.name.to_string();
        // A partition's identity column draws from the sequence of the table it belongs to.
        let own = if member.is_root() { crate::prepare::own_sequences(self.plan, self.names) } else { Vec::new() };
        let mut steps = Vec::new();
        for column in &member.target.columns {
            let Some(sequence) = &column.sequence else { continue };
            let source = self
                .plan
                .columns
                .iter()
                .find(|c| c.name == column.name)
                .and_then(|c| c.source.as_ref())
                .and_then(|s| member.source?.column(s));
            let before = source.and_then(|s| s.sequence.as_ref());
            match own.iter().find(|(name, _)| *name == column.name) {
                Some((_, built)) => {
                    let ours = member.target.name.sibling(built.name.clone());
                    if ours.name != sequence.name.name {
                        steps.push(format!("ALTER SEQUENCE {ours} RENAME TO {}", Ident(&sequence.name.name)));
                    }
                    let named = member.target.name.sibling(sequence.name.name.clone());
                    if let Some(before) = before {
                        let old = before.name.sibling(old_name(moved, &before.name.name));
                        steps.push(format!(
                            "SELECT setval({}, last_value, is_called) FROM {old}",
                            Literal(&named.to_string())
                        ));
                    }
                    if let Some(comment) = &sequence.comment {
                        steps.push(format!("COMMENT ON SEQUENCE {named} IS {}", Literal(comment)));
                    }
                }
                None => {
                    if before.is_some_and(|b| b.type_sql != sequence.type_sql) {
                        steps.push(format!("ALTER SEQUENCE {} AS {}", sequence.name, sequence.type_sql));
                    }
                    steps.push(format!("ALTER SEQUENCE {} OWNED BY {table}.{}", sequence.name, Ident(&column.name)));
                }
            }
        }
        steps
    }
}

/// All statements of a swap, in order: of one table, or of several that are swapped together, whose foreign keys among
/// themselves go from new table to new table.
pub fn statements(swaps: &[Swap<'_>]) -> Vec<String> {
    let go = swaps.iter().flat_map(|swap| swap.carry.let_go(swap.names));
    let trade = swaps.iter().flat_map(Swap::trade);
    let settle = swaps.iter().flat_map(Swap::settle);
    let back = swaps.first().filter(|swap| swap.plan.back.is_some());
    let back = back.map(|swap| published::keep_sql(swap.names.head(), &swap.names.back_publication()));
    let phase = swaps.first().map(|swap| match swap.names.are_backwards() {
        false => Store::set_phase_sql(swap.names.head(), Phase::Ready, Phase::Swapped),
        true => Store::set_phase_sql(swap.names.head(), Phase::Keep, Phase::SwappedBack),
    });
    go.chain(trade).chain(settle).chain(back).chain(phase).collect()
}

/// The old names of what makes room, by the names it had.
pub(super) type Moved = HashMap<String, String>;

pub(super) fn old_name(moved: &Moved, name: &str) -> String {
    moved.get(name).cloned().unwrap_or_else(|| name.to_owned())
}

/// Those of one table.
fn own_old_names(plan: &Plan, source: &Shape, moved: &Moved) -> OldNames {
    let sequence = |c: &Column| {
        let named = c.sequence.as_ref()?.name.clone();
        Some(if plan.leaves_sequence(c) { named.sibling(old_name(moved, &named.name)) } else { named })
    };
    OldNames {
        table: source.name.sibling(old_name(moved, &source.name.name)),
        indexes: source.indexes.iter().map(|i| old_name(moved, &i.name)).collect(),
        sequences: source.columns.iter().map(sequence).collect(),
        partitions: Vec::new(),
    }
}

/// Sequences that stay with the old table, under another name.
fn leaving_sequences<'a>(plan: &Plan, source: &'a Shape) -> impl Iterator<Item = &'a Sequence> {
    source.columns.iter().filter(|c| plan.leaves_sequence(c)).filter_map(|c| c.sequence.as_ref())
}

/// The old table's names make room: a constraint's is its index's.
fn old_away(plan: &Plan, source: &Shape, moved: &Moved) -> Vec<String> {
    let old = |name: &str| old_name(moved, name);
    let mut steps = vec![format!("ALTER TABLE {} RENAME TO {}", source.name, Ident(&old(&source.name.name)))];
    for index in &source.indexes {
        let name = source.name.sibling(index.name.clone());
        steps.push(format!("ALTER INDEX {name} RENAME TO {}", Ident(&old(&index.name))));
    }
    for sequence in leaving_sequences(plan, source) {
        steps.push(format!("ALTER SEQUENCE {} RENAME TO {}", sequence.name, Ident(&old(&sequence.name.name))));
    }
    steps
}

pub(super) fn new_in(member: &Member<'_>) -> Vec<String> {
    let target = member.target;
    let shadow = member.shadow();
    let moved = target.name.sibling(shadow.name.clone());
    let mut steps = Vec::new();
    if shadow.schema != target.name.schema {
        steps.push(format!("ALTER TABLE {shadow} SET SCHEMA {}", Ident(&target.name.schema)));
    }
    let renamed = |kind: &str, from: &QualifiedName, to: &str| {
        (from.name != to).then(|| format!("ALTER {kind} {from} RENAME TO {}", Ident(to)))
    };
    steps.extend(renamed("TABLE", &moved, &target.name.name));
    for (n, index) in target.indexes.iter().enumerate() {
        let built = target.name.sibling(member.index(n).name);
        steps.extend(renamed("INDEX", &built, &index.name));
    }
    steps
}

fn settings(member: &Member<'_>) -> Vec<String> {
    let target = member.target;
    let table = target.name.to_string();
    if member.is_old() {
        // It was this table before: only the identity may have been changed for the migration's sake.
        let mut steps = ddl::restore_autovacuum(target, &table);
        let identity = finish::identity(target, str::to_owned);
        steps.push(format!("ALTER TABLE {table} REPLICA IDENTITY {identity}"));
        return steps;
    }
    let Some(source) = member.source else {
        // Autovacuum comes back after the swap: see `finish::restore_autovacuum`.
        let identity = finish::identity(target, str::to_owned);
        let own = target.replica_identity != 'd';
        return Vec::from_iter(own.then(|| format!("ALTER TABLE {table} REPLICA IDENTITY {identity}")));
    };
    let mut steps = ddl::restore_autovacuum(target, &table);
    steps.extend(ddl::unvalidated_checks(target, &table));
    for index in target.indexes.iter().filter(|i| i.is_deferred_to_swap()) {
        steps.extend(ddl::attach_index(index, &table, &target.name.sibling(index.name.clone())));
    }
    if target.replica_identity != 'd' {
        // The index that identified the source's rows may be gone or renamed by the clauses; by columns it is found.
        let same = |name: &str| {
            let keys = source.indexes.iter().find(|i| i.name == name).map(|i| i.keys.clone());
            let by_name = target.indexes.iter().find(|i| i.name == name);
            by_name
                .or_else(|| target.indexes.iter().find(|i| i.unique && Some(&i.keys) == keys.as_ref()))
                .map_or_else(|| name.to_owned(), |i| i.name.clone())
        };
        steps.push(format!("ALTER TABLE {table} REPLICA IDENTITY {}", finish::identity(source, same)));
    }
    steps
}
