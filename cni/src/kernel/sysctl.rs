//! Kernel settings of a pod's network namespace. `/proc/sys/net` shows the namespace of the thread that opens it.

use std::fs;
use std::ops::RangeInclusive;

use super::KernelError;

/// A setting and the values that do.
struct Setting {
    path: &'static str,
    allowed: RangeInclusive<u64>,
    ipv6: bool,
}

const SETTINGS: [Setting; 5] = [
    // Bounds the backlog at listen(), so it comes before the listeners.
    Setting { path: "/proc/sys/net/core/somaxconn", allowed: 4096..=u64::MAX, ipv6: false },
    // The application's socket answers with the mark of the connection it accepted (data-plane rule 16) …
    Setting { path: "/proc/sys/net/ipv4/tcp_fwmark_accept", allowed: 1..=u64::MAX, ipv6: false },
    // … and so do resets for ports where nobody listens, which otherwise leave the pod towards the real caller.
    Setting { path: "/proc/sys/net/ipv4/fwmark_reflect", allowed: 1..=u64::MAX, ipv6: false },
    Setting { path: "/proc/sys/net/ipv6/fwmark_reflect", allowed: 1..=u64::MAX, ipv6: true },
    // Connections older than the rules are not tracked. Tracked from their middle on, they are remembered for minutes after
    // their end, perhaps in the wrong direction: a new connection with the ports of such a one is taken for its
    // continuation and not redirected.
    Setting { path: "/proc/sys/net/netfilter/nf_conntrack_tcp_loose", allowed: 0..=0, ipv6: false },
];

/// A setting as it was before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    path: &'static str,
    value: u64,
}

impl Before {
    /// The setting and its value then.
    pub(super) const fn said(&self) -> (&'static str, u64) {
        (self.path, self.value)
    }

    /// As it was told by somebody who remembers; `None`: no setting of ours.
    pub(super) fn told(path: &str, value: u64) -> Option<Self> {
        SETTINGS.iter().find(|setting| setting.path == path).map(|setting| Self { path: setting.path, value })
    }
}

/// Brings every setting to the nearest value that does and returns what was changed. Run inside the pod's namespace, when
/// the kernel tracks connections somewhere: the setting for that is not there before.
///
/// # Errors
/// When a setting cannot be read or written, such as on a read-only `/proc`.
pub fn install(ipv6: bool) -> Result<Vec<Before>, KernelError> {
    let mut changed = Vec::new();
    for setting in needed(ipv6) {
        let value = read(setting.path)?;
        let (least, most) = (*setting.allowed.start(), *setting.allowed.end());
        if !setting.allowed.contains(&value) {
            write(setting.path, value.clamp(least, most))?;
            changed.push(Before { path: setting.path, value });
        }
    }
    verify(ipv6)?;
    Ok(changed)
}

/// Are the settings in force? Run inside the pod's namespace.
///
/// # Errors
/// [`KernelError::Differs`], or when a setting cannot be read.
pub fn verify(ipv6: bool) -> Result<(), KernelError> {
    for setting in needed(ipv6) {
        if !setting.allowed.contains(&read(setting.path)?) {
            return Err(KernelError::Differs { what: "the kernel settings" });
        }
    }
    Ok(())
}

/// Puts settings back. Run inside the pod's namespace.
///
/// # Errors
/// When a setting cannot be written.
pub fn restore(before: &[Before]) -> Result<(), KernelError> {
    before.iter().rev().try_for_each(|setting| write(setting.path, setting.value))
}

fn needed(ipv6: bool) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(move |setting| ipv6 || !setting.ipv6)
}

fn read(path: &str) -> Result<u64, KernelError> {
    let text = fs::read_to_string(path).map_err(KernelError::system(format!("reading {path}")))?;
    text.trim()
        .parse()
        .map_err(|_| KernelError::system(format!("reading {path}"))(std::io::Error::other("not a number")))
}

fn write(path: &str, value: u64) -> Result<(), KernelError> {
    fs::write(path, value.to_string()).map_err(KernelError::system(format!("writing {path}")))
}
