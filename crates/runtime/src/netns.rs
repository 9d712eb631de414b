//! Doing something inside another network namespace: a guarded `setns` of the current thread and back.
//! Meant for opening sockets; a socket stays in the namespace where it was made. Devices, addresses and routes are set
//! up by the program `ip`.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;

/// An open network namespace. Clones share the descriptor; the namespace lives while any of them does.
#[derive(Clone, Debug)]
pub struct NetNamespace {
    descriptor: Arc<OwnedFd>,
    identity: NamespaceId,
}

/// Which namespace it is: equal for every descriptor of the same one, while one is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceId {
    device: u64,
    inode: u64,
}

impl NamespaceId {
    /// The number that `ls -l /proc/*/ns/net` shows.
    #[must_use]
    pub const fn inode(self) -> u64 {
        self.inode
    }
}

impl NetNamespace {
    /// Opens a namespace by path, such as `/run/netns/a` or `/proc/7/ns/net`.
    ///
    /// # Errors
    /// When the path cannot be opened or is no network namespace.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let file = std::fs::File::open(path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        Self::from_descriptor(file.into())
    }

    /// The namespace of a process.
    ///
    /// # Errors
    /// When the process has ended or may not be looked at.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        Self::open(format!("/proc/{pid}/ns/net"))
    }

    /// The namespace that the current thread is in.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// A namespace from a descriptor received from somebody else.
    ///
    /// # Errors
    /// When it is no network namespace.
    pub fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        let kind = nsfs_kind(descriptor.as_fd())?;
        if kind != CloneFlags::CLONE_NEWNET {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is not a network namespace"));
        }
        let status = fstat(&descriptor)?;
        let identity = NamespaceId { device: status.st_dev, inode: status.st_ino };
        Ok(Self { descriptor: Arc::new(descriptor), identity })
    }

    /// Which namespace this is.
    #[must_use]
    pub const fn id(&self) -> NamespaceId {
        self.identity
    }

    /// Runs `work` with the current thread inside this namespace and brings the thread back.
    ///
    /// `work` is synchronous on purpose: an await in here could carry on with the thread in the wrong namespace.
    /// When the thread cannot be brought back the process aborts: a thread that goes on in a pod's namespace would
    /// open other pods' sockets there, with that pod's address and identity, and nothing would show it.
    ///
    /// # Errors
    /// When the thread cannot enter (missing `SYS_ADMIN`); `work` has then not run.
    pub fn run_in<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        let home = Self::current()?;
        if home.identity == self.identity {
            return Ok(work());
        }
        setns(self.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let _guard = Return(&home);
        Ok(work())
    }
}

impl AsFd for NetNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Brings the thread home when dropped, also when `work` panics.
struct Return<'a>(&'a NetNamespace);

impl Drop for Return<'_> {
    fn drop(&mut self) {
        if let Err(error) = setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET) {
            tracing::error!(%error, "cannot return to the own network namespace; aborting");
            std::process::abort();
        }
    }
}

/// What kind of namespace a descriptor is (`NS_GET_NSTYPE`); an error for anything that is no namespace.
fn nsfs_kind(descriptor: BorrowedFd<'_>) -> io::Result<CloneFlags> {
    crate::fd::namespace_kind(descriptor).map(CloneFlags::from_bits_truncate)
}

/// Runs the lines of `script` as commands of `ip`, in the network namespace of this name or in the caller's; stops at the
/// first that fails.
///
/// # Errors
/// In words for the user: `ip` is missing, or what it said.
pub fn ip(netns: Option<&str>, script: &str) -> io::Result<()> {
    let mut command = Command::new("ip");
    if let Some(name) = netns {
        command.args(["-n", name]);
    }
    let command =
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| {
        io::Error::new(error.kind(), format!("cannot run ip: install the Debian package iproute2 ({error})"))
    })?;
    // What it says on refusing a line is worth more than the broken pipe.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(script.as_bytes()));
    let out = child.wait_with_output()?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        return Err(io::Error::other(format!(
            "ip, {}: {said}",
            netns.unwrap_or("in this network namespace")
        )));
    }
    written
}

#[cfg(test)]
mod tests {
    //! These need root (or a user namespace with `SYS_ADMIN`) and fail without.
    use super::*;
    use nix::sched::unshare;

    fn other_namespace() -> NetNamespace {
        std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("this test needs SYS_ADMIN");
            NetNamespace::current().unwrap()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn work_runs_inside_and_the_thread_comes_back() {
        let home = NetNamespace::current().unwrap();
        let other = other_namespace();
        assert_ne!(home.id(), other.id());
        let inside = other.run_in(|| NetNamespace::current().unwrap().id()).unwrap();
        assert_eq!(inside, other.id());
        assert_eq!(NetNamespace::current().unwrap().id(), home.id());
    }

    #[test]
    fn panic_inside_brings_the_thread_back() {
        let home = NetNamespace::current().unwrap();
        let other = other_namespace();
        let outcome = std::panic::catch_unwind(|| other.run_in(|| panic!("inside")));
        assert!(outcome.is_err());
        assert_eq!(NetNamespace::current().unwrap().id(), home.id());
    }

    #[test]
    fn what_is_no_network_namespace_is_refused() {
        for path in ["/proc/self/ns/mnt", "/proc/self/stat", "/proc/self"] {
            assert!(NetNamespace::open(path).is_err(), "{path}");
        }
        assert!(NetNamespace::of_process(u32::MAX).is_err());
    }
}
