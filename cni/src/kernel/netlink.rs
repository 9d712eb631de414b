//! Questions to the kernel over netlink(7): a message, and what comes back until the kernel is done.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_MULTIPART, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// The kernel answers while it is asked; this bounds what cannot happen.
const PATIENCE: Duration = Duration::from_secs(2);
/// Room for one message of the kernel: it fills at most 32 KiB at once.
const BUFFER: usize = 64 * 1024;

/// One of the kernel's netlink families, of the network namespace that it was opened in.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens the family in the namespace that this thread is in; it stays that one's wherever it is used.
    pub(super) fn open(family: isize) -> io::Result<Self> {
        let mut socket = Socket::new(family)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket2::SockRef::from(&socket.as_fd()).set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends `message` with the header's `flags`.
    pub(super) fn send<M>(&mut self, message: M, flags: u16) -> io::Result<()>
    where
        M: NetlinkSerializable + Into<NetlinkPayload<M>>,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, message.into());
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Takes the answers to what was sent last: one message, messages until "done", or a verdict.
    pub(super) fn receive<M: NetlinkDeserializable>(&self, take: &mut dyn FnMut(M)) -> io::Result<()> {
        loop {
            let mut bytes = Vec::with_capacity(BUFFER);
            self.socket.recv(&mut bytes, 0)?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<M>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                // Messages are aligned to four bytes (netlink(7)).
                let length = (message.header.length as usize).next_multiple_of(4).max(4);
                rest = rest.get(length..).unwrap_or_default();
                // Left over from a question whose answer came too late.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                let more = message.header.flags & NLM_F_MULTIPART != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => {
                        take(answer);
                        if !more {
                            return Ok(());
                        }
                    }
                    NetlinkPayload::Error(error) => {
                        return if error.code.is_none() { Ok(()) } else { Err(error.to_io()) };
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    _ => {}
                }
            }
        }
    }
}
