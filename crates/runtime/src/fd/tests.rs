//! Bounds, truncation and ownership of descriptors that travel.

use std::fs::File;
use std::io::{Read, Seek, Write};

use super::*;

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn message_and_descriptors_arrive_together() {
    let (one, other) = SeqPacket::pair().unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"cloth").unwrap();
    one.send(b"take this", &[file.as_fd(), file.as_fd()]).await.unwrap();
    let (bytes, descriptors) = other.receive().await.unwrap().unwrap();
    assert_eq!(bytes, b"take this");
    assert_eq!(descriptors.len(), 2);
    let flags = nix::fcntl::fcntl(&descriptors[0], nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    let mut copy = File::from(descriptors.into_iter().next().unwrap());
    copy.rewind().unwrap();
    let mut text = String::new();
    copy.read_to_string(&mut text).unwrap();
    assert_eq!(text, "cloth");
}

#[tokio::test]
async fn closed_peer_reads_as_none() {
    let (one, other) = SeqPacket::pair().unwrap();
    drop(one);
    assert!(other.receive().await.unwrap().is_none());
    assert!(other.send(b"x", &[]).await.is_err());
}

#[tokio::test]
async fn sending_is_bounded() {
    let (one, _other) = SeqPacket::pair().unwrap();
    let file = tempfile::tempfile().unwrap();
    let many = [file.as_fd(); MAX_DESCRIPTORS + 1];
    for (bytes, descriptors) in
        [(vec![], &many[..0]), (vec![0; MAX_MESSAGE + 1], &many[..0]), (vec![0], &many[..])]
    {
        let error = one.send(&bytes, descriptors).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}

// One test for both, because each counts this process's descriptors; in a process of its own so that no other test
// opens any meanwhile (`cargo test` runs tests as threads).
#[test]
fn unwelcome_descriptors_are_closed() {
    if std::env::var_os("WEFT_ALONE").is_none() {
        let name = "fd::tests::unwelcome_descriptors_are_closed";
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--test-threads=1"])
            .env("WEFT_ALONE", "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    use nix::sys::socket::{
        AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
    };
    let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty()).unwrap();
    let file = tempfile::tempfile().unwrap();
    let many = vec![file.as_raw_fd(); 253];
    let before = open_descriptors();
    for (bytes, count) in [(1, MAX_DESCRIPTORS + 1), (1, 253), (MAX_MESSAGE + 1, 2)] {
        let payload = vec![7; bytes];
        let rights = [ControlMessage::ScmRights(&many[..count])];
        sendmsg::<()>(one.as_raw_fd(), &[io::IoSlice::new(&payload)], &rights, MsgFlags::empty(), None)
            .unwrap();
        let error = receive_message(other.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(open_descriptors(), before);
    }
    // As many as may be open: the kernel cuts the control data, and what did arrive is closed.
    let rights = [ControlMessage::ScmRights(&many[..8])];
    sendmsg::<()>(one.as_raw_fd(), &[io::IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).unwrap();
    let free = file.try_clone().unwrap().as_raw_fd();
    limit_descriptors(free as u64 + 3);
    let error = receive_message(other.as_fd()).unwrap_err();
    limit_descriptors(512);
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(open_descriptors(), before);
}

fn limit_descriptors(count: u64) {
    let limit = libc::rlimit { rlim_cur: count, rlim_max: 1024 };
    // SAFETY: the pointer is to a whole `rlimit` that lives for the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}
