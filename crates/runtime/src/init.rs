//! Being process 1 of a PID namespace: start one program, collect whatever ends, and end with that program.
//! When process 1 ends, for whatever reason, the kernel ends everything else in the namespace.

use std::io;
use std::process::Command;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Starts `program` and reaps until it ends; its exit code. SIGTERM and SIGINT are passed on to it.
///
/// The program and what it starts inherit a mask with these signals blocked: it calls [`unblock_signals`] first.
///
/// # Errors
/// When the program cannot be started, or signals cannot be waited for.
pub fn run(program: &mut Command) -> io::Result<u8> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let program = Pid::from_raw(i32::try_from(program.spawn()?.id()).map_err(io::Error::other)?);
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => {
                if let Some(code) = reap(program) {
                    return Ok(code);
                }
            }
            _ => {
                let _ = kill(program, Signal::SIGTERM);
            }
        }
    }
}

/// Collects every ended child; the program's exit code once it is among them.
fn reap(program: Pid) -> Option<u8> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == program => {
                return Some(u8::try_from(code).unwrap_or(1));
            }
            Ok(WaitStatus::Signaled(pid, _, _)) if pid == program => return Some(1),
            Ok(WaitStatus::StillAlive) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

/// Undoes what a program of process 1 inherits: the mask with which process 1 waits for signals.
///
/// # Errors
/// When the kernel refuses, which it has no reason to.
pub fn unblock_signals() -> io::Result<()> {
    SigSet::all().thread_unblock()?;
    Ok(())
}
