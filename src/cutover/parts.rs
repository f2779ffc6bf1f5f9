//! The parts' share of the swap: they come out of our schema, with owner, grants, sequences, and their keys to what remains
//! of the source. Pure.

use super::acl::Acl;
use super::swap::{Moved, Swap, new_in, old_name};
use crate::finish;
use crate::pg::sql::grantee;
use crate::pg::{Ident, Literal, QualifiedName};
use crate::plan::compat::CompatView;
use crate::plan::ddl;
use crate::plan::parts::Reference;
use crate::plan::rejoin::Holds;
use crate::plan::types::{Names, Plan};
use crate::ties::Owed;

impl Swap<'_> {
    /// The statements for one part, once the source's target has its place.
    pub(super) fn part(&self, plan: &Plan, names: &Names, acl: &Acl, moved: &Moved) -> Vec<String> {
        let members = plan.members(names);
        let Some(member) = members.first() else { return Vec::new() };
        let target = &plan.target;
        let table = target.name.to_string();
        let mut steps = new_in(member);
        if target.owner != self.role {
            steps.push(format!("ALTER TABLE {table} OWNER TO {}", Ident(&target.owner)));
        }
        let own = Swap { plan, names, taken: self.taken.clone(), ..*self };
        steps.extend(own.sequences(member, moved));
        steps.extend(ddl::restore_autovacuum(target, &table));
        steps.extend(ddl::unvalidated_checks(target, &table));
        for index in target.indexes.iter().filter(|i| i.is_deferred_to_swap()) {
            steps.extend(ddl::attach_index(index, &table, &target.name.sibling(index.name.clone())));
        }
        if target.replica_identity != 'd' {
            steps.push(format!("ALTER TABLE {table} REPLICA IDENTITY {}", finish::identity(target, str::to_owned)));
        }
        steps.extend(acl.statements(plan, member));
        steps.extend(ddl::generated_always(target, &table));
        steps
    }

    /// On the way back of a table whose rows went to several: its identity columns go on behind the values that any of them
    /// has given.
    pub(super) fn given_by_all(&self, moved: &Moved) -> Vec<String> {
        let identity = self.plan.target.columns.iter().filter(|column| column.origin.is_identity());
        let own = identity.filter_map(|column| Some((column, column.sequence.as_ref()?)));
        let steps = own.flat_map(|(column, own)| {
            let tables = self.plan.besides().iter().filter(|beside| matches!(beside.holds, Holds::Rows { .. }));
            let theirs = tables.filter_map(|beside| beside.shape.column(&column.name)?.sequence.as_ref());
            theirs.map(|theirs| {
                let name = self.plan.target.name.sibling(own.name.name.clone());
                let further = if own.increment > 0 { ">" } else { "<" };
                format!(
                    "SELECT setval({}, last_value) FROM {} WHERE last_value {further} (SELECT last_value FROM {name})",
                    Literal(&name.to_string()),
                    theirs.name.sibling(old_name(moved, &theirs.name.name)),
                )
            })
        });
        steps.collect()
    }

    /// Foreign keys of the parts, and of what remains to tables of values: no row is looked at.
    pub(super) fn references(&self) -> Vec<String> {
        let keys = self.plan.parts.iter().filter_map(|part| Some((part, part.foreign_key.as_ref()?)));
        let keys = keys.map(|(part, key)| (&part.target.name, key));
        let lookups = self.plan.lookups.iter().map(|lookup| (&self.plan.target.name, &lookup.foreign_key));
        let add = |(table, key): (&QualifiedName, &Reference)| {
            format!("ALTER TABLE {table} ADD CONSTRAINT {} {} NOT VALID", Ident(&key.name), key.definition)
        };
        keys.chain(lookups).map(add).collect()
    }

    /// The view with the old shape, once all tables have their names: the table's owner and privileges are its own. A default
    /// of a view draws from a sequence as whoever inserts, where an identity column draws as the table.
    pub(super) fn compat_view(&self) -> Vec<String> {
        let (plan, Some(acl)) = (self.plan, self.acls.first()) else { return Vec::new() };
        let Some(view) = &plan.compat_view else { return Vec::new() };
        let mut steps = view.make(plan, &self.names.compat_view(), self.role);
        let as_table = view.as_target(plan);
        steps.extend(
            as_table.members(self.names).first().map(|member| acl.statements(&as_table, member)).unwrap_or_default(),
        );
        for sequence in CompatView::identity_sequences(plan) {
            let roles = acl.inserters(&plan.source.owner).into_iter();
            steps.extend(roles.map(|role| format!("GRANT USAGE ON SEQUENCE {sequence} TO {}", grantee(role))));
        }
        steps
    }

    /// All foreign keys that are to be validated after the swap.
    pub fn owed(&self) -> Vec<Owed> {
        let owed = |table: &QualifiedName, key: &Reference| Owed {
            table: table.to_string(),
            key: key.name.clone(),
            whole: None,
        };
        let parts = self.plan.parts.iter();
        let parts = parts.filter_map(|part| Some(owed(&part.target.name, part.foreign_key.as_ref()?)));
        let lookups = self.plan.lookups.iter().map(|lookup| owed(&self.plan.target.name, &lookup.foreign_key));
        self.carry.owed().into_iter().chain(parts).chain(lookups).collect()
    }
}
