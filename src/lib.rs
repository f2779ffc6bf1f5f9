//! pgrecast changes the shape of a live PostgreSQL table while the application keeps reading and writing it.

pub mod demo;
pub mod error;
pub mod pg;
