//! What every Weft program needs to be a process: see the modules.
//!
//! * [`fd`]: descriptors over Unix sockets, and socket options (the workspace's one module with `unsafe`).
//! * [`netns`]: doing something inside another network namespace.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
pub mod fd;
pub mod netns;
