//! Volumes of a pod: ConfigMaps, Secrets and tokens as files (kept up to date), `emptyDir`, and the files that the
//! kubelet itself writes: `/etc/resolv.conf`, `/etc/hosts`, `/etc/hostname`.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, KeyToPath, Volume as PodVolume, VolumeProjection};

use super::{Data, Kind, Kubelet, PodSpec};
use crate::config::{CLUSTER_DOMAIN, LabConfig};
use crate::dns;
use crate::rootfs::Volume;
use crate::secrets::AUDIENCE;

/// What a volume holds, by path.
type Content = BTreeMap<String, Vec<u8>>;

/// Makes or refreshes every volume's folder; the names of volumes with their folders.
pub(crate) fn prepare(
    kubelet: &Kubelet,
    spec: &PodSpec,
    data: &Data,
) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut folders = BTreeMap::new();
    let volumes = spec.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    for volume in volumes {
        let folder = spec.folder().join("volumes").join(&volume.name);
        let filled = fs::create_dir_all(&folder).map_err(|error| error.to_string()).and_then(|()| {
            let sources = Sources { kubelet, spec, data };
            fill(&folder, sources.of_volume(volume)?)
        });
        filled.map_err(|error| format!("volume {}: {error}", volume.name))?;
        folders.insert(volume.name.clone(), folder);
    }
    Ok(folders)
}

fn fill(folder: &Path, content: Content) -> Result<(), String> {
    for (path, content) in content {
        let path = inside(folder, &path)?;
        if fs::read(&path).ok().as_ref() != Some(&content) {
            write(&path, &content).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Where a pod's volumes get their content.
struct Sources<'a> {
    kubelet: &'a Kubelet,
    spec: &'a PodSpec,
    data: &'a Data,
}

impl Sources<'_> {
    fn of_volume(&self, volume: &PodVolume) -> Result<Content, String> {
        if let Some(of) = &volume.config_map {
            return self.object(Kind::ConfigMap, &of.name, of.items.as_deref(), of.optional);
        }
        if let Some(of) = &volume.secret {
            let name = of.secret_name.as_deref().unwrap_or_default();
            return self.object(Kind::Secret, name, of.items.as_deref(), of.optional);
        }
        match (&volume.projected, &volume.empty_dir) {
            (Some(projected), _) => {
                let mut content = Content::new();
                for source in projected.sources.iter().flatten() {
                    content.extend(self.projected(source)?);
                }
                Ok(content)
            }
            (None, Some(_)) => Ok(Content::new()),
            (None, None) => Err("the lab knows configMap, secret, projected and emptyDir only".to_owned()),
        }
    }

    fn projected(&self, source: &VolumeProjection) -> Result<Content, String> {
        if let Some(of) = &source.config_map {
            return self.object(Kind::ConfigMap, &of.name, of.items.as_deref(), of.optional);
        }
        if let Some(of) = &source.secret {
            return self.object(Kind::Secret, &of.name, of.items.as_deref(), of.optional);
        }
        match &source.service_account_token {
            Some(token) if token.audience.as_deref() == Some(AUDIENCE) => {
                let own = self.kubelet.secrets.token(&self.spec.namespace, self.spec.service_account());
                let own = own.map_err(|error| format!("serviceAccountToken: {error}"))?;
                Ok([(token.path.clone(), own.into_bytes())].into())
            }
            Some(_) => {
                Err(format!("serviceAccountToken: the lab makes tokens for the audience {AUDIENCE} only"))
            }
            None => Err("projected: the lab knows configMap, secret and serviceAccountToken only".to_owned()),
        }
    }

    /// The files of an object, or those that `items` choose.
    fn object(
        &self,
        kind: Kind,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
    ) -> Result<Content, String> {
        let files = match self.data.of(kind, &self.spec.namespace, name) {
            Ok(files) => files,
            Err(_) if optional == Some(true) => return Ok(Content::new()),
            Err(error) => return Err(error),
        };
        let Some(items) = items else { return Ok(files.clone()) };
        let chosen = items.iter().map(|item| {
            let content =
                files.get(&item.key).ok_or_else(|| format!("{name:?} has no key {:?}", item.key))?;
            Ok((item.path.clone(), content.clone()))
        });
        chosen.collect()
    }
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
