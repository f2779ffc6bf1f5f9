//! pgrecast changes the shape of a live PostgreSQL table while the application keeps reading and writing it.

pub mod cli;
pub mod report;

pub mod error;
pub mod plan;
pub mod preflight;
pub mod spec;
pub mod pg;
pub mod stream;
