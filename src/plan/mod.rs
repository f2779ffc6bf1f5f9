//! Spec and catalog become a plan.

pub mod build;
pub mod compat;
pub mod ddl;
pub mod elements;
pub mod former;
pub mod guard;
pub mod holding;
pub mod key;
pub mod kin;
pub mod lookups;
pub mod model;
mod names;
pub mod partitioning;
pub mod partitions;
pub mod partman;
pub mod parts;
pub mod read;
pub mod rejoin;
pub mod reverse;
pub mod shape;
mod split;
pub mod tree;
pub mod types;
