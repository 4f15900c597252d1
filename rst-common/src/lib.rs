//! What the eBPF programs and the daemon share: the wire types, the table of
//! kernel fields, the table of causes and the classifier.
//!
//! Everything here is plain data and pure functions: no I/O, no allocation, no
//! clock. The same code runs in the kernel and in host tests.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod cause;
pub mod classify;
pub mod count;
pub mod drops;
pub mod event;
pub mod facts;
pub mod history;
pub mod layout;
pub mod owner;
pub mod reason;
pub mod tcp;
pub mod verifier;
