//! A container's environment and arguments: `env`, `envFrom`, field references and `$(NAME)`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, EnvVar};

use super::{Data, Kind, PodSpec};
use crate::launch::PATH;

/// The whole environment of a container.
pub(crate) fn environment(
    spec: &PodSpec,
    container: &Container,
    addresses: &[IpAddr],
    data: &Data,
) -> Result<BTreeMap<String, String>, String> {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOME".to_owned(), "/root".to_owned()),
        ("HOSTNAME".to_owned(), spec.name.clone()),
    ]);
    for from in container.env_from.iter().flatten() {
        let (kind, name, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(of), _) => (Kind::ConfigMap, &of.name, of.optional),
            (None, Some(of)) => (Kind::Secret, &of.name, of.optional),
            (None, None) => return Err("envFrom: neither configMapRef nor secretRef".to_owned()),
        };
        match data.of(kind, &spec.namespace, name) {
            Ok(files) => {
                let prefix = from.prefix.as_deref().unwrap_or_default();
                let variable = |(k, v): (&String, &Vec<u8>)| {
                    (format!("{prefix}{k}"), String::from_utf8_lossy(v).into_owned())
                };
                env.extend(files.iter().map(variable));
            }
            Err(_) if optional == Some(true) => {}
            Err(error) => return Err(error),
        }
    }
    for variable in container.env.iter().flatten() {
        let value = value_of(spec, container, variable, addresses, data)?;
        let value = expand(&value, &env);
        env.insert(variable.name.clone(), value);
    }
    Ok(env)
}

fn value_of(
    spec: &PodSpec,
    container: &Container,
    variable: &EnvVar,
    addresses: &[IpAddr],
    data: &Data,
) -> Result<String, String> {
    let Some(source) = &variable.value_from else { return Ok(variable.value.clone().unwrap_or_default()) };
    if let Some(field) = &source.field_ref {
        return field_value(spec, &field.field_path, addresses);
    }
    if let Some(of) = &source.resource_field_ref {
        return resource_value(container, &of.resource);
    }
    let (kind, name, key, optional) = match (&source.config_map_key_ref, &source.secret_key_ref) {
        (Some(of), _) => (Kind::ConfigMap, &of.name, &of.key, of.optional),
        (None, Some(of)) => (Kind::Secret, &of.name, &of.key, of.optional),
        (None, None) => {
            return Err(format!(
                "env {}: the lab knows value, fieldRef, resourceFieldRef, configMapKeyRef and secretKeyRef only",
                variable.name
            ));
        }
    };
    let missing = || format!("{name:?} has no key {key:?}");
    let found = data.of(kind, &spec.namespace, name).and_then(|files| files.get(key).ok_or_else(missing));
    match found {
        Ok(value) => Ok(String::from_utf8_lossy(value).into_owned()),
        Err(_) if optional == Some(true) => Ok(String::new()),
        Err(error) => Err(error),
    }
}

fn field_value(spec: &PodSpec, path: &str, addresses: &[IpAddr]) -> Result<String, String> {
    let joined = || addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let labelled = |prefix: &str, values: Option<&BTreeMap<String, String>>| {
        let name = path.strip_prefix(prefix)?.strip_suffix("']")?;
        Some(values.and_then(|v| v.get(name)).cloned().unwrap_or_default())
    };
    Ok(match path {
        "metadata.name" => spec.name.clone(),
        "metadata.namespace" => spec.namespace.clone(),
        "metadata.uid" => spec.uid.clone(),
        "spec.nodeName" => spec.node.name(),
        "spec.serviceAccountName" => spec.service_account().to_owned(),
        "status.podIP" => addresses.first().map(ToString::to_string).unwrap_or_default(),
        "status.podIPs" => joined(),
        "status.hostIP" => spec.node.address_v4().to_string(),
        _ => labelled("metadata.labels['", spec.pod.metadata.labels.as_ref())
            .or_else(|| labelled("metadata.annotations['", spec.pod.metadata.annotations.as_ref()))
            .ok_or_else(|| format!("fieldRef {path:?} is not known to the lab"))?,
    })
}

/// The container's own memory limit in bytes, or without one the machine's memory.
fn resource_value(container: &Container, resource: &str) -> Result<String, String> {
    if resource != "limits.memory" {
        return Err(format!("resourceFieldRef {resource:?} is not known to the lab"));
    }
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let bytes = match limits.and_then(|limits| limits.get("memory")) {
        Some(limit) => {
            bytes(&limit.0).ok_or_else(|| format!("limits.memory {:?} is no number of bytes", limit.0))?
        }
        None => nix::sys::sysinfo::sysinfo().map_err(|error| format!("sysinfo: {error}"))?.ram_total(),
    };
    Ok(bytes.to_string())
}

/// A quantity in whole numbers, such as `64Mi`.
fn bytes(quantity: &str) -> Option<u64> {
    let digits = quantity.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match quantity.get(digits.len()..)? {
        "" => 1,
        "k" => 1000,
        "M" => 1000 * 1000,
        "G" => 1000 * 1000 * 1000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// `$(NAME)` becomes the variable's value if it is set; `$$(NAME)` stays `$(NAME)`.
pub(crate) fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let after = from.get(1..).unwrap_or_default();
        if let Some(escaped) = after.strip_prefix('$') {
            out.push('$');
            rest = escaped;
            continue;
        }
        let name = after.strip_prefix('(').and_then(|a| a.split_once(')'));
        match name.and_then(|(name, tail)| Some((env.get(name)?, tail))) {
            Some((value, tail)) => {
                out.push_str(value);
                rest = tail;
            }
            None => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_bytes() {
        let all = ["1000", "64Mi", "1Gi", "2k", "1.5Gi", "Mi", ""].map(bytes);
        assert_eq!(all, [Some(1000), Some(64 << 20), Some(1 << 30), Some(2000), None, None, None]);
    }

    #[test]
    fn references_expand_as_in_kubernetes() {
        let env = BTreeMap::from([("A".to_owned(), "x".to_owned())]);
        assert_eq!(expand("$(A)-$(B)-$$(A)-$A-$", &env), "x-$(B)-$(A)-$A-$");
    }
}
