//! The control schema: what must survive a kill, and the lease that keeps two runners apart.

mod phase;
mod question;
mod steering;
mod store;

pub use phase::Phase;
pub use store::{Ending, LeafState, Migration, NewMigration, Store, lease_lost};
