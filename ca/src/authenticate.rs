//! How a caller proves who it is, with every call.

use std::collections::HashMap;
use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::{fs, hint, io};

use parking_lot::Mutex;
use tonic::Status;
use tonic::metadata::MetadataMap;
use weft_model::{Identity, ObjectName, TrustDomain};

/// What stands before a Gateway's name; no node's name has a slash.
const GATEWAY: &str = "gateway/";
/// What stands before a service account's name.
const SERVICE_ACCOUNT: &str = "serviceaccount/";

/// A node that has proved itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// The Kubernetes node's name.
    pub name: String,
}

/// Who has proved itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A node's proxy: gets its configuration, and certificates for the enrolled pods of its node.
    Node(Node),
    /// Any other workload: gets a certificate for itself; and, if that is who a Gateway's proxies are, what they need.
    Workload(Identity),
    /// A proxy of this Gateway, by a secret: gets what the Gateway's proxies need.
    Gateway(ObjectName),
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node {}", node.name),
            Self::Workload(identity) => write!(f, "{identity}"),
            Self::Gateway(name) => write!(f, "Gateway {name}"),
        }
    }
}

/// Why a proof does not prove.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// There is none.
    #[error("the call has no metadata `authorization: Bearer <proof>`")]
    Missing,
    /// It is wrong. Says no more, so that nothing can be probed.
    #[error("the node proof is not valid")]
    Invalid,
    /// It cannot be judged now.
    #[error("node proofs cannot be checked at the moment: {0}")]
    Unavailable(String),
}

/// Decides whom a proof belongs to.
pub trait Authenticator: Send + Sync + 'static {
    /// Judges what followed `Bearer `.
    fn authenticate(&self, proof: &str) -> impl Future<Output = Result<Caller, ProofError>> + Send;
}

/// Reads and judges the proof of a call.
///
/// # Errors
/// UNAUTHENTICATED without a valid proof, UNAVAILABLE if it cannot be judged.
pub async fn authenticate<A: Authenticator>(
    authenticator: &A,
    metadata: &MetadataMap,
) -> Result<Caller, Status> {
    let header = metadata.get("authorization").and_then(|value| value.to_str().ok());
    let judged = match header.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(proof) => authenticator.authenticate(proof).await,
        None => Err(ProofError::Missing),
    };
    judged.map_err(|error| {
        tracing::warn!(%error, "a call was not authenticated");
        match error {
            ProofError::Unavailable(_) => Status::unavailable(error.to_string()),
            ProofError::Missing | ProofError::Invalid => Status::unauthenticated(error.to_string()),
        }
    })
}

/// Callers that share a secret with the controller, each its own: a file of lines `<name>=<secret>` (a colon does as
/// well), read again when it changes. The name is a node's, `gateway/<namespace>/<name>` for a Gateway's proxies, or
/// `serviceaccount/<namespace>/<name>` for the pods of a service account. The proof is `<name>:<secret>`. For the lab,
/// where no API server reviews tokens.
#[derive(Debug)]
pub struct NodeSecretAuthenticator {
    path: PathBuf,
    trust_domain: TrustDomain,
    loaded: Mutex<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    stamp: Option<Stamp>,
    secrets: HashMap<String, Secret>,
}

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl NodeSecretAuthenticator {
    /// Reads the file at each proof if it has changed. A file that is absent or damaged proves nobody.
    /// `trust_domain` is that of service accounts' identities.
    pub fn new(path: impl Into<PathBuf>, trust_domain: TrustDomain) -> Self {
        Self { path: path.into(), trust_domain, loaded: Mutex::default() }
    }

    fn caller(&self, name: &str) -> Result<Caller, ProofError> {
        if let Some(gateway) = name.strip_prefix(GATEWAY) {
            return gateway.parse().map(Caller::Gateway).map_err(|_| ProofError::Invalid);
        }
        let Some(account) = name.strip_prefix(SERVICE_ACCOUNT) else {
            return Ok(Caller::Node(Node { name: name.to_owned() }));
        };
        let (namespace, service_account) = account.split_once('/').ok_or(ProofError::Invalid)?;
        let identity = Identity {
            trust_domain: self.trust_domain.clone(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        };
        // Through its text, which refuses characters that no identity has.
        identity.to_string().parse().map(Caller::Workload).map_err(|_| ProofError::Invalid)
    }

    fn judge(&self, proof: &str) -> Result<Caller, ProofError> {
        let (name, secret) = proof.split_once(':').ok_or(ProofError::Invalid)?;
        let mut loaded = self.loaded.lock();
        self.reload(&mut loaded).map_err(|error| {
            *loaded = Loaded::default();
            ProofError::Unavailable(format!("{}: {error}", self.path.display()))
        })?;
        match loaded.secrets.get(name) {
            Some(own) if same(own.0.as_bytes(), secret.as_bytes()) => self.caller(name),
            _ => Err(ProofError::Invalid),
        }
    }

    fn reload(&self, loaded: &mut Loaded) -> io::Result<()> {
        let metadata = fs::metadata(&self.path)?;
        let stamp = Stamp {
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        };
        if loaded.stamp != Some(stamp) {
            loaded.secrets = parse(&fs::read_to_string(&self.path)?)?;
            loaded.stamp = Some(stamp);
        }
        Ok(())
    }
}

impl Authenticator for NodeSecretAuthenticator {
    async fn authenticate(&self, proof: &str) -> Result<Caller, ProofError> {
        self.judge(proof)
    }
}

fn parse(text: &str) -> io::Result<HashMap<String, Secret>> {
    let mut secrets = HashMap::new();
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once(['=', ':']) {
            Some((node, secret)) if !node.is_empty() && !secret.is_empty() => {
                secrets.insert(node.to_owned(), Secret(secret.to_owned()));
            }
            _ => {
                let why = format!(
                    "line {} is not <name>=<secret>, where the name is a node's, gateway/<namespace>/<name> \
                     or serviceaccount/<namespace>/<name>",
                    index + 1
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
    }
    Ok(secrets)
}

/// Compares without ending early, so that time tells nothing about where two secrets differ.
fn same(left: &[u8], right: &[u8]) -> bool {
    let difference =
        left.iter().zip(right).fold(0_u8, |difference, (l, r)| hint::black_box(difference | (l ^ r)));
    left.len() == right.len() && hint::black_box(difference) == 0
}
