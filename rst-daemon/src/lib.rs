//! The library behind `rst`: load the probes, read events and counts, join
//! them with what the host knows, serve them.
//!
//! I/O lives in `kernel`, `serve`, `client` and `daemon`; everything between
//! an [`rst_common::event::Event`] and its text, JSON or metrics is pure.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

pub mod basis;
pub mod clock;
pub mod join;
pub mod kernel;
pub mod metrics;
pub mod reset;
