//! pgrecast changes the shape of a live PostgreSQL table while the application keeps reading and writing it.
//!
//! The rooms, in the order data takes through them:
//!
//! ```text
//!  cli → spec → plan ← preflight          what was asked, what is there, what will be done
//!                 │
//!              prepare                     shadow, publication, slot, settle
//!                 │
//!   source ──── copy ───────→ shadow       block ranges, physical order, no index
//!      │                        ↑
//!   stream → follow → journal → flush      changed keys; rows are read again from the source
//!                 │
//!              index, verify, cutover      build, compare, swap
//!                 │
//!           keep, rollback                  follow the other way round, swap back
//!               finish                     remove all that is ours
//! ```
//!
//! `state` keeps what survives a kill; `report` says everything that is said; `pg` is the conversation with the server.

pub mod cli;
pub mod commands;
pub mod error;
pub mod report;
pub mod status;

pub mod pg;
pub mod plan;
pub mod preflight;
pub mod spec;
pub mod state;

pub mod compare;
pub mod context;
pub mod copy;
pub mod cutover;
pub mod drift;
pub mod estimate;
mod extend;
pub mod fill;
pub mod finish;
pub mod flush;
pub mod follow;
pub mod index;
pub mod journal;
pub mod keep;
pub mod monitor;
pub mod prepare;
pub mod published;
mod retry;
pub mod rollback;
pub mod run;
pub mod seams;
pub mod slot;
pub mod standby;
pub mod statistics;
pub mod stream;
pub mod throttle;
pub mod ties;
pub mod unconverted;
pub mod unfit;
pub mod verify;
pub mod window;

pub mod demo;
