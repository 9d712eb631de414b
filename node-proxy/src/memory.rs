//! Keeps the process within the memory that it may have. What one connection or stream holds is bounded, what many hold
//! together is not: while little memory is left, new ones are refused, so that those that are open live on. Else the
//! kernel would end them all.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io};

/// How often it is looked at: what clients can make a proxy hold in this time has room in what is left.
const EVERY: Duration = Duration::from_millis(100);
/// Of so many percent of the limit on, new work is refused.
const SHORT: u64 = 80;
/// Below so many it is taken again.
const ENOUGH: u64 = 70;

/// Whether there is memory for new work.
#[derive(Debug)]
pub struct Memory {
    /// In bytes. `None`: as much as there is.
    limit: Option<u64>,
    short: AtomicBool,
}

impl Memory {
    /// Enough, until [`watch`] finds out otherwise. The limit is in bytes.
    pub const fn new(limit: Option<u64>) -> Self {
        Self { limit, short: AtomicBool::new(false) }
    }

    /// # Errors
    /// When there is too little memory for a connection or request more: what is told to the caller.
    pub(crate) fn admit(&self) -> Result<(), &'static str> {
        match self.short.load(Ordering::Relaxed) {
            true => Err("the proxy has too little memory left"),
            false => Ok(()),
        }
    }

    /// Takes in how much the process has now, in bytes.
    pub(crate) fn note(&self, resident: u64) {
        let Some(limit) = self.limit else { return };
        let was_short = self.short.load(Ordering::Relaxed);
        let short = resident >= limit / 100 * if was_short { ENOUGH } else { SHORT };
        if short == was_short {
            return;
        }
        self.short.store(short, Ordering::Relaxed);
        match short {
            true => tracing::warn!(
                resident,
                limit,
                "little memory is left: new connections and requests are refused"
            ),
            false => {
                tracing::info!(resident, limit, "there is memory again for new connections and requests")
            }
        }
    }
}

/// Looks how much memory the process has, for ever.
pub(crate) async fn watch(memory: &Memory) -> Infallible {
    if memory.limit.is_none() {
        return std::future::pending().await;
    }
    loop {
        match resident() {
            Ok(bytes) => memory.note(bytes),
            Err(error) => tracing::error!(%error, "cannot read how much memory the process has"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// The resident memory of this process in bytes, as proc(5) tells it.
fn resident() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes
        .map(|kibibytes| kibibytes * 1024)
        .ok_or_else(|| io::Error::other("no VmRSS in /proc/self/status"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_work_is_refused_near_the_limit_until_there_is_clearly_less() {
        let memory = Memory::new(Some(1000));
        let admits = |resident| {
            memory.note(resident);
            memory.admit().is_ok()
        };
        let seen = [799, 800, 701, 700, 699, 799].map(admits);
        assert_eq!(seen, [true, false, false, false, true, true]);
    }

    #[test]
    fn without_a_limit_nothing_is_refused() {
        let memory = Memory::new(None);
        memory.note(u64::MAX);
        assert!(memory.admit().is_ok());
    }

    #[test]
    fn a_process_has_some_memory() {
        assert!(resident().unwrap() > 1024 * 1024);
    }
}
