//! The library behind `rst`: load the probes, read events and counts, join
//! them with what the host knows, serve them.
//!
//! I/O lives in `kernel`, `serve`, `client`, `print`, `workload::cgroups`,
//! `process`, `publish`, `incidents::run`, `store`, `history`, `doctor` and `daemon`; all else between an [`rst_common::event::Event`] and its
//! text, JSON or metrics is pure.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

pub mod basis;
pub mod cli;
pub mod client;
pub mod clock;
pub mod community_id;
pub mod config;
pub mod cost;
pub mod daemon;
pub mod doctor;
pub mod explain;
pub mod filter;
pub mod governor;
pub mod hint;
pub mod history;
pub mod hub;
pub mod incident;
pub mod incidents;
pub mod join;
pub mod kernel;
pub mod ledger;
pub mod log;
pub mod manager;
pub mod metrics;
pub mod pairs;
pub mod print;
pub mod process;
pub mod publish;
pub mod reload;
pub mod reset;
pub mod restart;
pub mod serve;
pub mod spike;
pub mod status;
pub mod store;
pub mod text;
pub mod watch;
pub mod when;
pub mod workload;

#[cfg(test)]
mod testing;
