//! Tests on real servers. `scripts/test` chooses the servers; `PGRECAST_TEST_BIN` names the programs of one.

mod demo;
mod ground;
mod harness;
