//! The plugin's configuration, as the container runtime passes it on standard input.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{DECODE_FAILED, Failure, INCOMPATIBLE_VERSION, INVALID_CONFIG, failure};

pub(super) const SUPPORTED_VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A version of the CNI spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

/// The configuration after checks.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) version: Version,
    pub(super) agent_socket: PathBuf,
    pub(super) exclude_namespaces: Vec<String>,
    pub(super) timeout: Duration,
    pub(super) log_file: Option<PathBuf>,
    /// STATUS fails while pods cannot be enrolled.
    pub(super) status_checks_proxy: bool,
    previous: Option<Value>,
    valid_attachments: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    cni_version: String,
    agent_socket: Option<PathBuf>,
    exclude_namespaces: Option<Vec<String>>,
    /// Seconds.
    timeout: Option<u64>,
    status_checks_proxy: Option<bool>,
    log_file: Option<PathBuf>,
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<Value>>,
}

impl Config {
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let raw: Raw = serde_json::from_str(text)
            .map_err(|error| failure(DECODE_FAILED, format!("the configuration of weft-cni: {error}")))?;
        let version = match raw.cni_version.as_str() {
            "0.3.1" => Version::V0_3_1,
            "0.4.0" => Version::V0_4_0,
            "1.0.0" => Version::V1_0_0,
            "1.1.0" => Version::V1_1_0,
            other => {
                let known = SUPPORTED_VERSIONS.join(", ");
                let problem = format!("cniVersion {other:?} is not supported; weft-cni knows {known}");
                return Err(failure(INCOMPATIBLE_VERSION, problem));
            }
        };
        let never = || ["weft-system", "kube-system"].map(str::to_owned).to_vec();
        Ok(Self {
            version,
            agent_socket: raw.agent_socket.unwrap_or_else(|| "/run/weft/cni.sock".into()),
            exclude_namespaces: raw.exclude_namespaces.unwrap_or_else(never),
            timeout: Duration::from_secs(raw.timeout.unwrap_or(30).max(1)),
            log_file: raw.log_file,
            status_checks_proxy: raw.status_checks_proxy.unwrap_or(true),
            previous: raw.prev_result,
            valid_attachments: raw.valid_attachments,
        })
    }

    /// The addresses that the plugins before this one gave the pod.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let ips = self.previous.as_ref().and_then(|result| result.get("ips")?.as_array());
        let texts = ips.into_iter().flatten().filter_map(|ip| ip.get("address")?.as_str());
        texts.filter_map(|text| text.split('/').next()?.parse().ok()).collect()
    }

    /// `prevResult` in the form of this configuration's version. The one difference between the versions that a
    /// result of an older one shows is `ips[].version`, there until 0.4.0.
    pub(super) fn result_to_pass_on(&self) -> Result<Value, Failure> {
        let chained = "weft-cni must come after another plugin in the list: prevResult is missing";
        let mut result = self.previous.clone().ok_or_else(|| failure(INVALID_CONFIG, chained))?;
        let Some(fields) = result.as_object_mut() else {
            return Err(failure(DECODE_FAILED, "prevResult is no object"));
        };
        fields.insert("cniVersion".to_owned(), self.version.name().into());
        let ips = fields.get_mut("ips").and_then(Value::as_array_mut);
        for ip in ips.into_iter().flatten().filter_map(Value::as_object_mut) {
            if self.version >= Version::V1_0_0 {
                ip.shift_remove("version");
            } else if !ip.contains_key("version") {
                let v6 = ip.get("address").and_then(Value::as_str).is_some_and(|text| text.contains(':'));
                ip.insert("version".to_owned(), json!(if v6 { "6" } else { "4" }));
            }
        }
        Ok(result)
    }

    /// The containers that GC is to keep.
    pub(super) fn valid_containers(&self) -> Result<Vec<String>, Failure> {
        let missing = "cni.dev/valid-attachments is missing: without it GC would forget every pod";
        let attachments = self.valid_attachments.as_ref().ok_or_else(|| failure(INVALID_CONFIG, missing))?;
        let ids = attachments.iter().map(|attachment| {
            let id = attachment.get("containerID").and_then(Value::as_str);
            id.map(str::to_owned)
                .ok_or_else(|| failure(DECODE_FAILED, "a valid attachment has no containerID"))
        });
        ids.collect()
    }
}
