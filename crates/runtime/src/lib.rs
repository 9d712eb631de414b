//! What every Weft program needs to be a process: see the modules.
//!
//! * [`admin`]: the admin HTTP server.
//! * [`backoff`]: waits between tries.
//! * [`duration`]: durations on command lines.
//! * [`fd`]: descriptors over Unix sockets, and socket options (the workspace's one module with `unsafe`).
//! * [`init`]: being process 1 of a PID namespace.
//! * [`logging`]: how a process logs.
//! * [`metrics`]: the metrics registry.
//! * [`netns`]: doing something inside another network namespace, and setting one up.
//! * [`panic`]: what happens on a panic.
//! * [`process`]: starting and remembering other processes.
//! * [`shutdown`]: signals that end a process.
#![deny(unsafe_code)]

pub mod admin;
pub mod backoff;
pub mod duration;
#[allow(unsafe_code)]
pub mod fd;
pub mod init;
pub mod logging;
pub mod metrics;
pub mod netns;
pub mod panic;
pub mod process;
pub mod shutdown;
