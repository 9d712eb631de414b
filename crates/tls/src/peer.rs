//! A peer as its certificate showed it in the handshake, to be judged again while its connection lives.

use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::KeyUsage;
use weft_model::Identity;

use crate::certificate::Svid;
use crate::verify::judge;
use crate::{PeerCertificate, TlsError, TrustBundle};

/// A peer's certificate. TLS judges it once, when a connection begins; a connection that lives long is judged again.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Who it is.
    pub identity: Identity,
    /// Since when its certificate is valid.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    chain: Vec<CertificateDer<'static>>,
    usage: KeyUsage,
}

impl Peer {
    /// Reads what a peer presented; `usage` is the role it had.
    pub(crate) fn read(chain: Option<&[CertificateDer<'_>]>, usage: KeyUsage) -> Result<Self, TlsError> {
        let chain: Vec<_> = chain.unwrap_or_default().iter().map(|one| one.clone().into_owned()).collect();
        let svid = Svid::read(chain.first().ok_or(TlsError::NoCertificate)?)?;
        let Svid { identity, not_before, not_after, .. } = svid;
        Ok(Self { identity, not_before, not_after, chain, usage })
    }

    /// Judges it as a handshake at `now` with this bundle would.
    ///
    /// # Errors
    /// Why that handshake would fail.
    pub fn check(&self, bundle: &TrustBundle, now: SystemTime) -> Result<(), PeerCertificate> {
        let (first, rest) = self.chain.split_first().ok_or(PeerCertificate::Foreign)?;
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        judge(bundle, first, rest, now, self.usage).map(drop)
    }
}
