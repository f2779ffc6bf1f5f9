//! The SQL of the swap. Pure.
//!
//! Nothing here rewrites or scans a table: every statement changes the catalog only, so the time under the lock does
//! not grow with the table.

use super::acl::Acl;
use crate::finish;
use crate::pg::sql::name_with_suffix;
use crate::pg::{Ident, Literal, QualifiedName};
use crate::plan::ddl::{self, free_name};
use crate::plan::types::{Names, Plan};
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
    /// Names of relations in the source's schema.
    pub taken: &'a [String],
    /// Grants on the source and its columns, and what the shadow has from default privileges.
    pub acl: &'a Acl,
    /// What is tied to the source.
    pub carry: Carry<'a>,
    /// The role that swaps.
    pub role: &'a str,
}

impl Swap<'_> {
    /// The old table's name after the swap.
    pub fn old_table(&self) -> QualifiedName {
        self.plan.source.name.sibling(self.old_name(&self.plan.source.name.name))
    }

    /// The old names of everything that makes room, each free beside the relations there are and the others.
    fn old_names(&self) -> Vec<(&str, String)> {
        let source = &self.plan.source;
        let sequences = source.columns.iter().filter(|c| c.origin.is_identity()).filter_map(|c| c.sequence.as_ref());
        let names = std::iter::once(source.name.name.as_str())
            .chain(source.indexes.iter().map(|i| i.name.as_str()))
            .chain(sequences.map(|s| s.name.name.as_str()));
        let mut chosen: Vec<(&str, String)> = Vec::new();
        for name in names {
            let blocked = |n: &str| self.taken.iter().any(|t| t == n) || chosen.iter().any(|(_, c)| c == n);
            let old = free_name(name, "_old", blocked);
            chosen.push((name, old));
        }
        chosen
    }

    fn old_name(&self, name: &str) -> String {
        self.old_names().into_iter().find(|(n, _)| *n == name).map_or_else(|| name.to_owned(), |(_, old)| old)
    }

    /// All statements, in order.
    pub fn statements(&self) -> Vec<String> {
        let mut steps = self.carry.let_go(self.names);
        steps.extend(self.old_away());
        steps.extend(
            self.carry.swap_statistics(self.names, |s| name_with_suffix(&s.name, &format!("_old_{}", self.id))),
        );
        steps.extend(self.new_in());
        steps.extend(self.sequences());
        steps.extend(self.settings());
        steps.extend(self.carry.take_hold(self.names));
        let old = self.old_table();
        steps.push(format!(
            "UPDATE pgrecast.migration SET old_table = {}, to_validate = {}::jsonb WHERE id = {}",
            Literal(&old.plain()),
            Literal(&serde_json::json!(self.carry.owed()).to_string()),
            self.id
        ));
        steps.push(Store::set_phase_sql(self.id, Phase::Ready, Phase::Swapped));
        steps
    }

    /// The old table's names make room: a constraint's is its index's.
    fn old_away(&self) -> Vec<String> {
        let source = &self.plan.source;
        let mut steps = vec![format!("ALTER TABLE {} RENAME TO {}", source.name, Ident(&self.old_table().name))];
        for index in &source.indexes {
            let name = source.name.sibling(index.name.clone());
            steps.push(format!("ALTER INDEX {name} RENAME TO {}", Ident(&self.old_name(&index.name))));
        }
        for column in source.columns.iter().filter(|c| c.origin.is_identity()) {
            if let Some(sequence) = &column.sequence {
                let old = self.old_name(&sequence.name.name);
                steps.push(format!("ALTER SEQUENCE {} RENAME TO {}", sequence.name, Ident(&old)));
            }
        }
        steps
    }

    fn new_in(&self) -> Vec<String> {
        let target = &self.plan.target;
        let shadow = self.names.shadow();
        let moved = target.name.sibling(shadow.name.clone());
        let mut steps = vec![
            format!("ALTER TABLE {shadow} SET SCHEMA {}", Ident(&target.name.schema)),
            format!("ALTER TABLE {moved} RENAME TO {}", Ident(&target.name.name)),
        ];
        for (n, index) in target.indexes.iter().enumerate() {
            let built = target.name.sibling(self.names.index(n).name);
            steps.push(format!("ALTER INDEX {built} RENAME TO {}", Ident(&index.name)));
        }
        steps
    }

    /// Own sequences get their names and the values of those they stand for; a serial's sequence changes its table.
    fn sequences(&self) -> Vec<String> {
        let table = self.plan.target.name.to_string();
        let own = crate::prepare::own_sequences(self.plan, self.names);
        let mut steps = Vec::new();
        if self.plan.source.owner != self.role {
            steps.push(format!("ALTER TABLE {table} OWNER TO {}", Ident(&self.plan.source.owner)));
        }
        for column in &self.plan.target.columns {
            let Some(sequence) = &column.sequence else { continue };
            let source = self
                .plan
                .columns
                .iter()
                .find(|c| c.name == column.name)
                .and_then(|c| c.source.as_ref())
                .and_then(|s| self.plan.source.column(s));
            let before = source.and_then(|s| s.sequence.as_ref());
            match own.iter().find(|(name, _)| *name == column.name) {
                Some((_, built)) => {
                    let moved = self.plan.target.name.sibling(built.name.clone());
                    steps.push(format!("ALTER SEQUENCE {moved} RENAME TO {}", Ident(&sequence.name.name)));
                    let named = self.plan.target.name.sibling(sequence.name.name.clone());
                    if let Some(before) = before {
                        let old = match source.is_some_and(|s| s.origin.is_identity()) {
                            true => before.name.sibling(self.old_name(&before.name.name)),
                            false => before.name.clone(),
                        };
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

    fn settings(&self) -> Vec<String> {
        let target = &self.plan.target;
        let table = target.name.to_string();
        let mut steps = ddl::restore_autovacuum(target, &table);
        steps.extend(ddl::generated_always(target, &table));
        steps.extend(ddl::unvalidated_checks(target, &table));
        for index in target.indexes.iter().filter(|i| i.is_deferred_to_swap()) {
            steps.extend(ddl::attach_index(index, &table, &target.name.sibling(index.name.clone())));
        }
        if target.replica_identity != 'd' {
            let source = &self.plan.source;
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
        steps.extend(self.acl.statements(self.plan));
        steps
    }
}
