//! The authority: signs workload certificates and the controller's own, and keeps the trust bundle.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use tokio::sync::watch;
use weft_model::{Identity, TrustDomain};
use weft_tls::{BundleError, TrustBundle};

use crate::directory;
use crate::request::{self, RequestError};
use crate::root::{self, Root, RootError, certificate_pem};

/// How far certificates are dated back, for clocks that go behind.
const BACKDATE: Duration = Duration::from_secs(60);

/// How long before its end a root is complained about.
const ENDS_SOON: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What an authority is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The trust domain it signs for.
    pub trust_domain: TrustDomain,
    /// Lifetime of workload certificates.
    pub leaf_lifetime: Duration,
    /// Lifetime of the controller's own certificate.
    pub serving_lifetime: Duration,
    /// Lifetime of a root made here.
    pub root_lifetime: Duration,
}

impl Settings {
    /// Leaves and the controller's certificate for 24 hours, a root for 10 years.
    pub const fn new(trust_domain: TrustDomain) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            trust_domain,
            leaf_lifetime: DAY,
            serving_lifetime: DAY,
            root_lifetime: DAY.saturating_mul(3650),
        }
    }
}

/// A root that signs for one trust domain.
pub struct Authority {
    settings: Settings,
    /// Where the root is kept, for words.
    place: String,
    root: Root,
    trust: watch::Sender<TrustBundle>,
}

/// The controller's own certificate and key, for `weft_tls::ServerTls`.
pub struct ServingCertificate {
    /// The certificate, DER; leaf first.
    pub chain_der: Vec<Vec<u8>>,
    /// The key, PKCS #8, DER. Lives in memory only.
    pub key_pkcs8_der: Vec<u8>,
    /// When to ask for the next: two thirds of its lifetime.
    pub renew_at: SystemTime,
    /// When it ends.
    pub not_after: SystemTime,
}

/// Why something was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The request itself.
    #[error("the certificate request is refused: {0}")]
    Request(#[from] RequestError),
    /// Another mesh's identity.
    #[error("{identity} is not of this mesh's trust domain {own}")]
    TrustDomain {
        /// What was asked for.
        identity: Identity,
        /// What is signed for here.
        own: TrustDomain,
    },
    /// The root ends.
    #[error("the authority's root certificate has expired: make a new root and give it to every proxy")]
    RootExpired,
    /// The library refused.
    #[error("cannot sign: {0}")]
    Sign(#[from] rcgen::Error),
}

impl Authority {
    /// Loads the root from a directory or makes it there: `root.pem` (0600) holds it, `root.crt` is for those who
    /// trust it.
    ///
    /// # Errors
    /// See [`RootError`]; nothing is ever repaired or replaced silently.
    pub fn open(directory: &Path, settings: Settings, now: SystemTime) -> Result<Self, RootError> {
        let Settings { trust_domain, root_lifetime, .. } = &settings;
        let root = directory::open(directory, trust_domain, *root_lifetime, now)?;
        Self::of(root, directory.display().to_string(), settings, now)
    }

    /// An authority with a root that is kept elsewhere: key and certificate as PEM. `place` says where, in errors.
    ///
    /// # Errors
    /// See [`RootError`].
    pub fn from_pem(
        pem: &[u8],
        place: impl Into<String>,
        settings: Settings,
        now: SystemTime,
    ) -> Result<Self, RootError> {
        let place = place.into();
        let root = root::read(pem, &place, &settings.trust_domain, now)?;
        Self::of(root, place, settings, now)
    }

    fn of(root: Root, place: String, settings: Settings, now: SystemTime) -> Result<Self, RootError> {
        let damaged =
            |error: BundleError| RootError::Damaged { place: place.clone(), why: error.to_string() };
        let bundle = bundle_of(&settings, &root, Vec::new()).map_err(damaged)?;
        let authority = Self { settings, place, root, trust: watch::Sender::new(bundle) };
        authority.watch_root(now);
        Ok(authority)
    }

    /// The trust domain it signs for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.settings.trust_domain
    }

    /// When the root ends. No certificate outlives it.
    pub fn root_not_after(&self) -> SystemTime {
        self.root.not_after
    }

    /// How long the root still lives, if that is less than 30 days. Logged at the start and with each of the
    /// controller's own certificates.
    pub fn root_ends_soon(&self, now: SystemTime) -> Option<Duration> {
        let left = self.root.not_after.duration_since(now).unwrap_or_default();
        (left < ENDS_SOON).then_some(left)
    }

    fn watch_root(&self, now: SystemTime) {
        if let Some(left) = self.root_ends_soon(now) {
            let days = left.as_secs() / (24 * 60 * 60);
            tracing::warn!(
                days,
                place = self.place,
                "the root certificate ends soon and nothing is signed after it: prepare a new root"
            );
        }
    }

    /// The root certificate as PEM: what proxies are bootstrapped with.
    pub fn root_pem(&self) -> String {
        certificate_pem(&self.root.certificate_der)
    }

    /// The trust bundle, now and on every change.
    pub fn trust_bundle(&self) -> watch::Receiver<TrustBundle> {
        self.trust.subscribe()
    }

    /// Trusts these roots (DER) beside the own one, and no others: for the time in which one root replaces another.
    ///
    /// # Errors
    /// One does not decode; then nothing changes.
    pub fn trust_also(&self, roots_der: Vec<Vec<u8>>) -> Result<(), BundleError> {
        let bundle = bundle_of(&self.settings, &self.root, roots_der)?;
        self.trust.send_if_modified(|current| {
            let changed = *current != bundle;
            if changed {
                *current = bundle;
            }
            changed
        });
        Ok(())
    }

    /// Certifies a request's key for an identity; the chain, leaf first, without the root. Of the request only
    /// the key counts: everything else in the certificate is the authority's.
    ///
    /// # Errors
    /// The request is not signed by its key, not P-256 or not for exactly this identity; or the identity is of
    /// another trust domain.
    pub fn sign(
        &self,
        csr_der: &[u8],
        identity: &Identity,
        now: SystemTime,
    ) -> Result<Vec<Vec<u8>>, SignError> {
        if identity.trust_domain != self.settings.trust_domain {
            let own = self.settings.trust_domain.clone();
            return Err(SignError::TrustDomain { identity: identity.clone(), own });
        }
        let key = request::check(csr_der, identity)?;
        let name = SanType::URI(identity.to_string().as_str().try_into()?);
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, _) = self.issue(&key, name, usages, self.settings.leaf_lifetime, now)?;
        Ok(vec![certificate])
    }

    /// Makes a key and a certificate for the controller's own DNS name.
    ///
    /// # Errors
    /// The name is no DNS name, or the root has expired.
    pub fn serving_certificate(
        &self,
        dns_name: &str,
        now: SystemTime,
    ) -> Result<ServingCertificate, SignError> {
        self.watch_root(now);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let name = SanType::DnsName(dns_name.try_into()?);
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let (certificate, not_after) = self.issue(&key, name, usages, self.settings.serving_lifetime, now)?;
        let lifetime = not_after.duration_since(now).unwrap_or_default();
        Ok(ServingCertificate {
            chain_der: vec![certificate],
            key_pkcs8_der: key.serialize_der(),
            renew_at: now + lifetime * 2 / 3,
            not_after,
        })
    }

    fn issue(
        &self,
        key: &impl PublicKeyData,
        name: SanType,
        extended_key_usages: Vec<ExtendedKeyUsagePurpose>,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<(Vec<u8>, SystemTime), SignError> {
        let not_after = self.root.not_after.min(now + lifetime);
        if not_after <= now {
            return Err(SignError::RootExpired);
        }
        let mut params = CertificateParams::default();
        // With an empty subject the name extension is critical (RFC 5280 §4.2.1.6).
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![name];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = extended_key_usages;
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(random_serial());
        params.not_before = (now - BACKDATE).into();
        params.not_after = not_after.into();
        let certificate = params.signed_by(key, &self.root.issuer)?;
        Ok((certificate.der().to_vec(), not_after))
    }
}

fn bundle_of(settings: &Settings, root: &Root, others: Vec<Vec<u8>>) -> Result<TrustBundle, BundleError> {
    let roots = std::iter::once(root.certificate_der.clone()).chain(others);
    TrustBundle::new(settings.trust_domain.clone(), roots)
}

/// 128 random bits, of which the first is cleared (a serial is positive) and the second set (it is never short).
pub(crate) fn random_serial() -> SerialNumber {
    let bits: u128 = rand::random();
    SerialNumber::from_slice(&((bits & (u128::MAX >> 1)) | (1 << 126)).to_be_bytes())
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServingCertificate").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}
