//! Everything that touches the kernel: BTF, loading, the ring buffer, the maps.

pub mod batch;
pub mod btf;
pub mod capabilities;
pub mod control;
pub mod counters;
mod functions;
pub mod hooks;
pub mod kernel_log;
pub mod labels;
pub mod layout;
pub mod listeners;
pub mod load;
mod mapping;
pub mod pins;
pub mod preflight;
pub mod probes;
pub mod programs;
pub mod prototypes;
pub mod ring;
pub mod tracked;
pub mod verdict;
