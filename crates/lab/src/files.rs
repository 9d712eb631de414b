//! Which process a lab is.

use std::io;

pub(crate) use weft_runtime::process::write_atomic;

use crate::config::State;

/// Remembers process 1, by number and start. A process that is gone already is remembered as such.
pub(crate) fn write_pid(state: &State, pid: u32) -> io::Result<()> {
    weft_runtime::process::remember(&state.pid(), pid)
}

/// The running lab's process 1 as seen from outside, if it runs.
pub(crate) fn running(state: &State) -> Option<u32> {
    weft_runtime::process::running(&state.pid())
}
