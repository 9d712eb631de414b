//! Goldens: `golden/<kind>-<condition>.in.yaml` holds objects, `.out.yaml` the resources, statuses and notices they are
//! translated to. `UPDATE_GOLDEN=1` writes the outputs anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use weft_controller::inputs::{Inputs, Object};
use weft_controller::status::OWNED;
use weft_controller::translate::status::Status;
use weft_controller::translate::{Translated, translate};
use weft_model::gateway::{BackendRoots, ListenerTls};
use weft_model::{MeshConfig, Resource, ResourceName, Text, TrustDomain};

#[derive(Serialize)]
struct Golden<'a> {
    resources: Vec<Resource>,
    statuses: BTreeMap<String, Status>,
    /// What each Gateway's proxies are sent.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    gateways: BTreeMap<String, Needs<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notices: Vec<&'a String>,
}

#[derive(Serialize)]
struct Needs<'a> {
    identity: String,
    names: &'a BTreeSet<ResourceName>,
}

fn mesh() -> MeshConfig {
    MeshConfig {
        trust_domain: TrustDomain("cluster.local".into()),
        cluster_domain: "cluster.local".into(),
        service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
        pod_ranges: vec!["10.244.0.0/16".parse().unwrap()],
    }
}

/// A golden with this line shows what is done with objects that an API server with today's CRDs would not admit, for
/// example those of a newer one.
const NOT_ADMITTED: &str = "# Not admitted by the CRDs.";

/// Certificates and keys, made anew for every run: a golden names them `${certificate NAME}` and `${key NAME}`.
struct Pairs(BTreeMap<String, String>);

impl Pairs {
    /// Those that a text names.
    fn of(text: &str) -> Self {
        let named = text.split("${certificate ").skip(1).filter_map(|rest| rest.split('}').next());
        let mut pairs = BTreeMap::new();
        for name in named.collect::<BTreeSet<_>>() {
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = rcgen::CertificateParams::new(vec![format!("{name}.example")]).unwrap();
            pairs.insert(format!("${{certificate {name}}}"), certificate.self_signed(&key).unwrap().pem());
            pairs.insert(format!("${{key {name}}}"), key.serialize_pem());
        }
        Self(pairs)
    }

    fn fill_in(&self, mut text: String) -> String {
        for (name, pem) in &self.0 {
            text = text.replace(name, &pem.replace("\r\n", "\n").replace('\n', "\\n"));
        }
        text
    }

    fn name(&self, pem: &mut Text) {
        if let Some((name, _)) = self.0.iter().find(|(_, one)| one.replace("\r\n", "\n") == **pem) {
            *pem = name.as_str().into();
        }
    }

    fn take_out(&self, resource: &Resource) -> Resource {
        let mut resource = resource.clone();
        match &mut resource {
            Resource::Certificate(certificate) => {
                self.name(&mut certificate.chain_pem);
                self.name(&mut certificate.key_pem.0);
            }
            Resource::BackendTls(tls) => {
                if let BackendRoots::Pem(roots) = &mut tls.roots {
                    roots.iter_mut().for_each(|pem| self.name(pem));
                }
            }
            Resource::Gateway(gateway) => {
                for listener in &mut gateway.listeners {
                    if let Some(ListenerTls::Terminate { client_validation: Some(it), .. }) =
                        &mut listener.tls
                    {
                        it.roots_pem.iter_mut().for_each(|pem| self.name(pem));
                    }
                }
            }
            _ => {}
        }
        resource
    }
}

/// Objects as an API server would store them: unknown fields refused, defaults filled in.
fn inputs(path: &Path, pairs: &Pairs, differ: &mut Vec<String>) -> Inputs {
    let text = pairs.fill_in(fs::read_to_string(path).unwrap());
    let (objects, problems) = weft_manifest::parse(path, &text);
    assert!(problems.is_empty(), "{problems:?}");
    let mut inputs = Inputs::new(mesh());
    let mut refused = Vec::new();
    for object in objects {
        let title = object.title();
        // Nodes are in no file that is admitted: kubelets write them.
        let admitted = match object.json["kind"] == "Node" {
            true => Ok(object.json.clone()),
            false => weft_manifest::admit(object.json.clone(), None),
        };
        let json = admitted.unwrap_or_else(|errors| {
            refused.push(format!("{}: {title}: {errors:?}", path.display()));
            object.json
        });
        let object = Object::decode(json).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(
            !matches!(object, Object::Other),
            "{}: {title} is of a kind that is not read",
            path.display()
        );
        assert!(inputs.insert(&object), "{}: {title} is there twice", path.display());
    }
    if text.starts_with(NOT_ADMITTED) == refused.is_empty() {
        differ.push(format!("{}: is it admitted?\n{}", path.display(), refused.join("\n")));
    }
    inputs
}

/// What the class claims to support is the same in every golden, too.
fn shown(status: &Status) -> Status {
    let mut status = status.clone();
    if let Status::GatewayClass(class) = &mut status {
        class.supported_features.clear();
    }
    status
}

fn render(translated: &Translated, pairs: &Pairs) -> String {
    let golden = Golden {
        // The mesh's own facts are the same in every golden.
        resources: translated
            .resources
            .values()
            .filter(|r| !matches!(r, Resource::MeshConfig(_)))
            .map(|r| pairs.take_out(r))
            .collect(),
        statuses: translated
            .statuses
            .iter()
            .map(|(name, status)| (name.to_string(), shown(status)))
            .collect(),
        gateways: translated
            .gateways
            .iter()
            .map(|(name, it)| {
                (name.to_string(), Needs { identity: it.identity.to_string(), names: &it.names })
            })
            .collect(),
        notices: translated.notices.iter().collect(),
    };
    serde_saphyr::to_string(&golden).unwrap()
}

/// One of a type that is not known as ours would be taken for somebody else's when it is written again.
fn conditions_are_known(golden: &str) {
    let lines: Vec<&str> = golden.lines().map(str::trim).collect();
    for pair in lines.windows(2) {
        if let (Some(kind), true) = (pair[0].strip_prefix("- type: "), pair[1].starts_with("status: ")) {
            assert!(OWNED.contains(&kind), "{kind} is missing in OWNED");
        }
    }
}

#[test]
fn objects_are_translated_to_what_the_goldens_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(".in.yaml"));
    paths.sort();
    assert!(paths.len() >= 30, "only {} goldens", paths.len());
    let mut differ = Vec::new();
    for path in paths {
        let out = PathBuf::from(path.to_string_lossy().replace(".in.yaml", ".out.yaml"));
        let pairs = Pairs::of(&fs::read_to_string(&path).unwrap());
        let actual = render(&translate(&inputs(&path, &pairs, &mut differ)), &pairs);
        conditions_are_known(&actual);
        if update {
            fs::write(&out, actual).unwrap();
            continue;
        }
        let expected = fs::read_to_string(&out).unwrap_or_default();
        if expected != actual {
            let line = expected.lines().zip(actual.lines()).position(|(a, b)| a != b);
            differ.push(format!("{}: differs from line {:?}\n{actual}", out.display(), line.map(|l| l + 1)));
        }
    }
    assert!(differ.is_empty(), "run with UPDATE_GOLDEN=1 and review the changes:\n{}", differ.join("\n"));
}
