//! Tests on real servers. `scripts/test` chooses the servers; `PGRECAST_TEST_BIN` names the programs of one.

mod ground;
mod harness;
mod scenarios;
