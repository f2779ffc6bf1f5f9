//! Tests on real servers. `scripts/test` chooses the servers; `PGRECAST_TEST_BIN` names the programs of one.

mod bounds;
mod chaos;
mod cutover;
mod demo;
mod disk;
mod drift;
mod epoch;
mod failover;
mod faults;
mod ground;
mod harness;
mod hours;
mod load;
mod locked;
mod log;
mod manual;
mod resume;
mod rollback;
mod scenarios;
mod spec;
mod status;
mod steered;
mod subscriber;
mod verify;
mod visibility;
mod world;
