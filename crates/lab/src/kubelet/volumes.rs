//! Volumes of a pod: ConfigMaps as files (kept up to date), `emptyDir`, and the files that the
//! kubelet itself writes: `/etc/resolv.conf`, `/etc/hosts`, `/etc/hostname`.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Volume as PodVolume};

use super::{ConfigMaps, PodSpec};
use crate::config::{CLUSTER_DOMAIN, LabConfig};
use crate::dns;
use crate::rootfs::Volume;

/// Makes or refreshes every volume's folder; the names of volumes with their folders.
pub(crate) fn prepare(spec: &PodSpec, maps: &ConfigMaps) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut folders = BTreeMap::new();
    let volumes = spec.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    for volume in volumes {
        let folder = spec.folder().join("volumes").join(&volume.name);
        fs::create_dir_all(&folder).map_err(|e| format!("volume {}: {e}", volume.name))?;
        fill(spec, volume, &folder, maps)?;
        folders.insert(volume.name.clone(), folder);
    }
    Ok(folders)
}

fn fill(spec: &PodSpec, volume: &PodVolume, folder: &Path, maps: &ConfigMaps) -> Result<(), String> {
    if volume.empty_dir.is_some() {
        return Ok(());
    }
    let Some(source) = &volume.config_map else {
        return Err(format!("volume {}: the lab knows configMap and emptyDir only", volume.name));
    };
    let Some(data) = maps.get(&(spec.namespace.clone(), source.name.clone())) else {
        if source.optional == Some(true) {
            return Ok(());
        }
        return Err(format!("volume {}: configmap {:?} not found", volume.name, source.name));
    };
    let mut wanted = BTreeMap::new();
    match &source.items {
        Some(items) => {
            for item in items {
                let content = data.get(&item.key).ok_or_else(|| {
                    format!("volume {}: configmap {:?} has no key {:?}", volume.name, source.name, item.key)
                })?;
                wanted.insert(item.path.clone(), content);
            }
        }
        None => wanted.extend(data.iter().map(|(k, v)| (k.clone(), v))),
    }
    for (path, content) in wanted {
        let path = inside(folder, &path)?;
        if fs::read(&path).ok().as_ref() != Some(content) {
            write(&path, content).map_err(|e| format!("volume {}: {e}", volume.name))?;
        }
    }
    Ok(())
}

/// Written in place: a file that is mounted by itself (`subPath`) is replaced too.
fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, content)
}

/// The path below the folder; `..` is refused.
fn inside(folder: &Path, path: &str) -> Result<PathBuf, String> {
    let clean = Path::new(path).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if clean { Ok(folder.join(path)) } else { Err(format!("path {path:?} leaves its volume")) }
}

/// What is mounted into one container.
pub(crate) fn mounts(
    spec: &PodSpec,
    container: &Container,
    folders: &BTreeMap<String, PathBuf>,
) -> Result<Vec<Volume>, String> {
    let etc = spec.folder().join("etc");
    let mut all: Vec<Volume> = ["resolv.conf", "hosts", "hostname"]
        .iter()
        .map(|name| Volume { source: etc.join(name), target: Path::new("/etc").join(name), read_only: false })
        .collect();
    for mount in container.volume_mounts.iter().flatten() {
        let folder =
            folders.get(&mount.name).ok_or_else(|| format!("volumeMounts: no volume {:?}", mount.name))?;
        let source = match &mount.sub_path {
            Some(path) => inside(folder, path)?,
            None => folder.clone(),
        };
        if !source.exists() {
            fs::create_dir_all(&source).map_err(|e| format!("volumeMounts {}: {e}", mount.name))?;
        }
        all.push(Volume {
            source,
            target: PathBuf::from(&mount.mount_path),
            read_only: mount.read_only == Some(true),
        });
    }
    // A mount inside another one comes after it.
    all.sort_by_key(|v| v.target.components().count());
    Ok(all)
}

/// Writes the pod's `/etc` files.
pub(crate) fn write_etc(config: &LabConfig, spec: &PodSpec, addresses: &[IpAddr]) -> std::io::Result<()> {
    let etc = spec.folder().join("etc");
    fs::create_dir_all(&etc)?;
    let pod = spec.pod.spec.as_ref();
    let mut hosts = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for ip in addresses {
        hosts += &format!("{ip}\t{}\n", spec.name);
    }
    for alias in pod.iter().flat_map(|p| p.host_aliases.iter().flatten()) {
        hosts += &format!(
            "{}\t{}\n",
            alias.ip,
            alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join(" ")
        );
    }
    fs::write(etc.join("hosts"), hosts)?;
    fs::write(etc.join("hostname"), format!("{}\n", spec.name))?;
    let namespace = &spec.namespace;
    let servers: String =
        dns::service_addresses(config).iter().map(|ip| format!("nameserver {ip}\n")).collect();
    fs::write(
        etc.join("resolv.conf"),
        format!(
            "{servers}search {namespace}.svc.{CLUSTER_DOMAIN} svc.{CLUSTER_DOMAIN} {CLUSTER_DOMAIN}\noptions ndots:5\n"
        ),
    )
}
