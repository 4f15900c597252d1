//! The programs live in the binary target; this empty library only lets
//! `rst-daemon` name the crate as a build dependency.
#![no_std]
