//! Spec and catalog become a plan.

pub mod build;
pub mod ddl;
pub mod guard;
pub mod key;
pub mod kin;
pub mod model;
pub mod partitioning;
pub mod partitions;
pub mod read;
pub mod reverse;
pub mod shape;
pub mod tree;
pub mod types;
