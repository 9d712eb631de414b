//! Seeing a peer again while connections to it live: a TLS handshake and nothing more, by which both ends show the
//! certificates that they have by now. The peer's proxy, if it is Weft's, prolongs what it has of us likewise.

use std::io;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use weft_model::Reason;
use weft_tls::{Alpn, TlsStream};

use super::dial::{Deadlines, Dial, Failure, Way};
use super::proofs::{Proof, Shown};
use super::trusted::wall;

/// The part of the time left after which the peer is seen again. By then both certificates are renewed, if all is well.
const FIRST: f64 = 0.8;
/// The part of what is left then after which a failure, or a peer with nothing newer, is tried again.
const AGAIN: f64 = 0.5;
/// No two tries for one pair of ends within this time.
const PAUSE: Duration = Duration::from_secs(1);

/// How to see the peer of a connection again, and how often that was tried in vain.
#[derive(Debug)]
pub(crate) struct Renew {
    dial: Dial,
    deadlines: Deadlines,
    /// What was known when it was tried last, and how often since.
    until: SystemTime,
    vain: u32,
}

impl Renew {
    /// By another connection as `dial` makes them.
    pub(crate) fn by(dial: &Dial, deadlines: &Deadlines) -> Self {
        let (dial, deadlines) = (dial.clone(), *deadlines);
        Self { dial, deadlines, until: SystemTime::UNIX_EPOCH, vain: 0 }
    }

    /// Waits until it is time to see the peer again, and does. `proof` learns what it shows.
    pub(super) async fn when_due(&mut self, proof: &Proof, shown: &Shown) {
        let until = shown.until();
        if self.until != until {
            (self.until, self.vain) = (until, 0);
        }
        let now = SystemTime::now();
        let left = until.duration_since(now).unwrap_or_default();
        let wait = left.mul_f64(if self.vain == 0 { FIRST } else { AGAIN }).max(PAUSE);
        wall(now + wait).await;
        let mut tried = proof.tried.lock().await;
        // Other connections to the same peer may have been quicker.
        if proof.subscribe().borrow().until() != until || tried.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        *tried = Some(Instant::now());
        self.vain += 1;
        if let Err(failure) = self.handshake().await {
            let (to, reason, left) = (self.dial.to, failure.reason, until.duration_since(SystemTime::now()));
            let message = &*failure.message;
            tracing::warn!(%to, %reason, message, ?left, "cannot show a renewed certificate to a peer; trying again");
        }
    }

    async fn handshake(&self) -> Result<(), Failure> {
        let Way::Tunnel { shared, expected, .. } = &self.dial.way else { return Ok(()) };
        let own = &self.dial.pod.identity;
        let Some(tls) = shared.certificates.for_identity(own) else {
            return Err(Failure::new(Reason::NoCertificate, format!("no certificate for {own}")));
        };
        let stream = self.dial.run_plain(&self.deadlines).await?;
        let handshake = async {
            // Every proxy that speaks HBONE takes this one, ztunnel too.
            let stream = tls.connect(stream, expected, Alpn::Hbone).await;
            let mut stream = stream.map_err(|error| self.dial.no_tls(&error))?;
            let peer = stream.peer().map_err(|error| self.dial.no_tls(&error))?;
            accepted(&mut stream).await.map_err(|error| self.dial.no_tls(&error))?;
            Ok::<_, Failure>(peer)
        };
        let silent = |_| self.dial.no_tls(&"the TLS handshake did not end within the deadline");
        let peer = tokio::time::timeout(self.deadlines.tls, handshake).await.map_err(silent)??;
        shared.proofs.shown(self.dial.pair(expected), peer, &tls);
        Ok(())
    }
}

/// Says good-bye and hears the answer: a peer that refuses our certificate says so only after its own handshake.
async fn accepted(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    stream.shutdown().await?;
    match stream.read(&mut [0; 64]).await {
        // Whoever ends the connection without a good-bye has taken it all the same.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(()),
    }
}
