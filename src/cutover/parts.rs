//! The parts' share of the swap: they come out of our schema, with owner, grants, sequences, and their keys to what remains
//! of the source. Pure.

use super::acl::Acl;
use super::swap::{Swap, new_in};
use crate::finish;
use crate::pg::{Ident, QualifiedName};
use crate::plan::ddl;
use crate::plan::parts::Reference;
use crate::plan::types::{Names, Plan};
use crate::ties::Owed;

impl Swap<'_> {
    /// The statements for one part, once the source's target has its place.
    pub(super) fn part(&self, plan: &Plan, names: &Names, acl: &Acl, moved: &super::swap::Moved) -> Vec<String> {
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
