//! The tables above and below in the cut-over. Pure.

use super::Carry;
use crate::pg::QualifiedName;
use crate::plan::kin::ddl::{self, Swapped};
use crate::plan::kin::{Kin, Relative};
use crate::plan::types::Names;

impl Carry<'_> {
    /// Tables through which statements come to the source.
    pub(super) fn above(&self) -> impl Iterator<Item = &Relative> {
        let Kin { partition, parents, .. } = &self.ties.kin;
        partition.iter().map(|p| &p.parent).chain(parents)
    }

    /// Tables that are altered or read besides, as far as LOCK TABLE takes them: no foreign table.
    pub(super) fn below(&self) -> impl Iterator<Item = &Relative> {
        let Kin { partition, children, .. } = &self.ties.kin;
        let default = partition.iter().filter_map(|p| p.default.as_ref());
        default.chain(children).filter(|r| r.kind != 'f')
    }

    /// All of them.
    pub(super) fn kin(&self) -> impl Iterator<Item = &Relative> {
        self.above().chain(self.below())
    }

    /// Once the new table has its name and is complete: its place in the hierarchy. `old` is what the old table is called.
    pub fn take_place(&self, names: &Names, old: &QualifiedName) -> Vec<String> {
        let tables = Swapped { old, new: &self.plan.target.name, stand_in: &names.stand_in() };
        ddl::take_place(&self.ties.kin, &tables)
    }
}
