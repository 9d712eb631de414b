//! The CNI plugin (CNI spec 1.1.0; configurations of 0.3.1 to 1.1.0), chained after the cluster's own: it tells the
//! agent what the container runtime said, and the runtime what the agent answered. It reads no Kubernetes API.
//! Last in a list: `{"type": "weft-cni", "agentSocket": "/run/weft/cni.sock", "timeout": 30,
//! "excludeNamespaces": ["weft-system", "kube-system"], "logFile": "/var/log/weft-cni.log", "statusChecksProxy": true}`; all
//! but `type` may be left out and is then as here, but without a log file nothing is logged. STATUS fails while the agent
//! or the proxy is away, unless `statusChecksProxy` says no: a runtime starts no pod at all then, not even the proxy.

mod ask;
mod config;
mod log;

use std::io::Read;
use std::net::IpAddr;

use serde_json::{Value, json};
use weft_api::cni::{Request, Sandbox};
use weft_model::ObjectName;

use config::{Config, SUPPORTED_VERSIONS, Version};

/// How a call ended: what is printed on standard output, and whether the exit status says success.
#[derive(Debug)]
pub struct Outcome {
    /// For standard output; may be empty.
    pub printed: String,
    /// Exit status 0.
    pub success: bool,
}

/// An error as the CNI spec wants it (spec 1.1, "Error").
#[derive(Debug)]
struct Failure {
    code: u32,
    message: String,
}

const INCOMPATIBLE_VERSION: u32 = 1;
const INVALID_ENVIRONMENT: u32 = 4;
const READ_FAILED: u32 = 5;
const DECODE_FAILED: u32 = 6;
const INVALID_CONFIG: u32 = 7;
const TRY_AGAIN_LATER: u32 = 11;
const NOT_AVAILABLE: u32 = 50;

fn failure(code: u32, message: impl Into<String>) -> Failure {
    Failure { code, message: message.into() }
}

/// One call of the plugin. `variable` reads the environment; the configuration comes from `input`.
pub fn run(variable: impl Fn(&str) -> Option<String>, input: &mut dyn Read) -> Outcome {
    let command = variable("CNI_COMMAND").unwrap_or_default();
    let mut text = String::new();
    let read = input.read_to_string(&mut text);
    // Errors are told in the configuration's version where that much could be read.
    let said: Option<Value> = serde_json::from_str(&text).ok();
    let version = said.as_ref().and_then(|config| config.get("cniVersion")?.as_str()).unwrap_or("1.1.0");
    if command == "VERSION" {
        let printed = json!({"cniVersion": version, "supportedVersions": SUPPORTED_VERSIONS});
        return Outcome { printed: printed.to_string(), success: true };
    }
    let result = match read {
        Ok(_) => Config::parse(&text).and_then(|config| {
            let result = obey(&command, &variable, &config);
            log::record(&config, &command, &variable, result.as_ref().err());
            result
        }),
        Err(error) => Err(failure(READ_FAILED, format!("reading the configuration: {error}"))),
    };
    match result {
        Ok(printed) => {
            Outcome { printed: printed.map(|value| value.to_string()).unwrap_or_default(), success: true }
        }
        // A failing DEL would leave the pod stuck; what remains of it goes with its namespace.
        Err(_) if command == "DEL" => Outcome { printed: String::new(), success: true },
        Err(Failure { code, message }) => {
            let printed = json!({"cniVersion": version, "code": code, "msg": message});
            Outcome { printed: printed.to_string(), success: false }
        }
    }
}

fn obey(
    command: &str,
    variable: &dyn Fn(&str) -> Option<String>,
    config: &Config,
) -> Result<Option<Value>, Failure> {
    let since = |version: Version| {
        if config.version >= version {
            return Ok(());
        }
        let problem = format!("{command} needs a configuration of cniVersion {} or newer", version.name());
        Err(failure(INCOMPATIBLE_VERSION, problem))
    };
    match command {
        "ADD" => add(variable, config).map(Some),
        "DEL" => ask::ask(config, &Request::Del(sandbox(variable, config)?), ask::END_LIMIT).map(|()| None),
        "CHECK" => {
            since(Version::V0_4_0)?;
            let sandbox = sandbox(variable, config)?;
            if excluded(config, &sandbox) {
                return Ok(None);
            }
            ask::ask(config, &Request::Check(sandbox), config.timeout).map(|()| None)
        }
        "STATUS" => {
            since(Version::V1_1_0)?;
            if !config.status_checks_proxy {
                return Ok(None);
            }
            let unavailable = |error: Failure| failure(NOT_AVAILABLE, error.message);
            ask::ask(config, &Request::Status, config.timeout).map(|()| None).map_err(unavailable)
        }
        "GC" => {
            since(Version::V1_1_0)?;
            let valid = config.valid_containers()?;
            ask::ask(config, &Request::Gc { valid }, config.timeout).map(|()| None)
        }
        "" => Err(failure(
            INVALID_ENVIRONMENT,
            "CNI_COMMAND is missing: a container runtime calls this program",
        )),
        other => Err(failure(INVALID_ENVIRONMENT, format!("CNI_COMMAND {other:?} is not known"))),
    }
}

fn add(variable: &dyn Fn(&str) -> Option<String>, config: &Config) -> Result<Value, Failure> {
    let result = config.result_to_pass_on()?;
    let sandbox = sandbox(variable, config)?;
    if sandbox.netns.is_none() {
        return Err(failure(INVALID_ENVIRONMENT, "CNI_NETNS is missing"));
    }
    if !excluded(config, &sandbox) {
        ask::ask(config, &Request::Add(sandbox), config.timeout)?;
    }
    Ok(result)
}

/// Pods of these namespaces start while the agent is away.
fn excluded(config: &Config, sandbox: &Sandbox) -> bool {
    let namespace = sandbox.pod.as_ref().map(|pod| &*pod.namespace);
    namespace.is_some_and(|namespace| config.exclude_namespaces.iter().any(|known| known == namespace))
}

fn sandbox(variable: &dyn Fn(&str) -> Option<String>, config: &Config) -> Result<Sandbox, Failure> {
    let given = |name: &str| variable(name).filter(|value| !value.is_empty());
    let container_id =
        given("CNI_CONTAINERID").ok_or_else(|| failure(INVALID_ENVIRONMENT, "CNI_CONTAINERID is missing"))?;
    let arguments = given("CNI_ARGS").unwrap_or_default();
    let argument = |name: &str| {
        let mut pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.to_owned())
            .filter(|value| !value.is_empty())
    };
    let pod = match (argument("K8S_POD_NAMESPACE"), argument("K8S_POD_NAME")) {
        (Some(namespace), Some(name)) => Some(ObjectName::new(namespace, name)),
        _ => None,
    };
    let uid = argument("K8S_POD_UID").map(Into::into);
    let addresses: Vec<IpAddr> = config.addresses();
    Ok(Sandbox { container_id, netns: given("CNI_NETNS"), pod, uid, addresses })
}
