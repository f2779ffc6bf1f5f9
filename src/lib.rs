//! pgrecast changes the shape of a live PostgreSQL table while the application keeps reading and writing it.

pub mod cli;
pub mod error;
pub mod pg;
pub mod plan;
pub mod preflight;
pub mod report;
pub mod spec;
pub mod state;
pub mod stream;

pub mod copy;
pub mod drift;
pub mod flush;
pub mod journal;
mod retry;
pub mod throttle;
pub mod verify;
