//! A Kubernetes cluster as the place of the cases, driven by `kubectl` alone, so that any mesh on any cluster can be asked.

mod weft;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::mesh::{IMAGE, LABEL, Place};

/// The `controllerName` of Weft itself.
pub const WEFT: &str = "weft-mesh.dev/mesh";
/// The kinds of routes that a mesh writes a status to.
const ROUTES: [&str; 5] = ["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"];

/// Which mesh on which cluster.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The command that is kubectl, with arguments that come first; split at blanks.
    #[arg(long, default_value = "kubectl")]
    pub kubectl: String,
    /// The image with the cases' programs: curl, python3 with grpcio, nginx, socat, openssl, OpenSSH, tcpdump, nft,
    /// ip, bash and weft-echo.
    #[arg(long, default_value = "weft/conformance-tools:1")]
    pub image: String,
    /// The label that enrols a namespace in the mesh, as KEY=VALUE.
    #[arg(long, default_value = "weft-mesh.dev/mesh=enabled")]
    pub label: String,
    /// The controllerName that the mesh writes into routes' statuses.
    #[arg(long, default_value = WEFT)]
    pub controller_name: String,
    /// How many pods are started at once in the case `lifecycle`.
    #[arg(long, default_value_t = 30)]
    pub pods: usize,
}

/// A cluster and what was applied to it.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    applied: Mutex<BTreeMap<String, String>>,
}

impl Cluster {
    /// The cluster that kubectl leads to.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options, applied: Mutex::default() }
    }

    /// `kubectl`, to add arguments to.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut words = self.options.kubectl.split_whitespace();
        let mut command = Command::new(words.next().unwrap_or("kubectl"));
        command.args(words).stdin(Stdio::null());
        command
    }

    /// What `kubectl get` with these arguments answers.
    ///
    /// # Errors
    /// When it fails.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "--output=json"], arguments].concat(), "")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Asks until the answer is yes.
    ///
    /// # Errors
    /// The last answer's, after the patience.
    pub fn until(patience: Duration, mut ask: impl FnMut() -> Result<()>) -> Result<()> {
        #[allow(clippy::disallowed_methods, reason = "waits for a real cluster")]
        let start = std::time::Instant::now();
        loop {
            match ask() {
                Err(_) if start.elapsed() < patience => sleep(Duration::from_millis(200)),
                outcome => return outcome,
            }
        }
    }

    /// The namespaces of what was applied.
    fn namespaces(&self) -> BTreeSet<String> {
        let applied = self.lock();
        let documents = applied.values().flat_map(|yaml| yaml.split("\n---"));
        let namespaces = documents.filter(|document| document.contains("kind: Namespace"));
        namespaces.filter_map(|document| document.split("name: ").nth(1)).map(name_at_start).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the cases write, as this cluster and this mesh need it.
    fn fit(&self, yaml: &str) -> String {
        let label = self.options.label.replacen('=', ": ", 1);
        yaml.replace(LABEL, &label)
            .replace(IMAGE, &format!("image: '{}', imagePullPolicy: IfNotPresent", self.options.image))
    }

    fn submit(&self, yaml: &str) -> Result<()> {
        let verb = ["apply", "--server-side", "--force-conflicts", "--filename=-"];
        self.kubectl(&verb, yaml).map(drop)
    }

    fn pods_are_ready(&self, namespace: &str) -> Result<()> {
        let pods = self.get(&["pods", "--namespace", namespace])?;
        for pod in pods["items"].as_array().into_iter().flatten() {
            let ready = pod["status"]["conditions"]
                .as_array()
                .is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
            ensure!(ready, "{namespace}/{} is not Ready", pod["metadata"]["name"]);
        }
        Ok(())
    }

    /// Every route at a Service says, for its present generation, what this mesh thinks of it.
    fn routes_are_judged(&self, namespace: &str) -> Result<()> {
        let routes = self.get(&[&ROUTES.join(","), "--namespace", namespace])?;
        let at_service = |route: &&Value| {
            let parents = route["spec"]["parentRefs"].as_array();
            parents.is_some_and(|all| all.iter().any(|parent| parent["kind"] == "Service"))
        };
        for route in routes["items"].as_array().into_iter().flatten().filter(at_service) {
            let generation = &route["metadata"]["generation"];
            let own = route["status"]["parents"]
                .as_array()
                .and_then(|all| all.iter().find(|p| p["controllerName"] == *self.options.controller_name));
            let judged = own
                .and_then(|p| p["conditions"].as_array())
                .is_some_and(|all| all.iter().all(|c| c["observedGeneration"] == *generation));
            ensure!(judged, "{} {namespace}/{} has no status yet", route["kind"], route["metadata"]["name"]);
        }
        Ok(())
    }
}

/// `a, labels: …}` begins with the name `a`.
fn name_at_start(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect()
}

impl Place for Cluster {
    fn exec_command(&self, pod: &str, program: &[&str]) -> Command {
        let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
        let mut command = self.command();
        command.args(["exec", "--stdin", "--quiet", "--namespace", namespace, name, "--"]).args(program);
        command
    }

    fn apply(&self, name: &str, yaml: &str) -> Result<()> {
        let yaml = self.fit(yaml);
        self.lock().insert(name.to_owned(), yaml.clone());
        let is_namespace = |document: &&str| document.contains("kind: Namespace");
        let (first, rest): (Vec<&str>, Vec<&str>) = yaml.split("\n---").partition(is_namespace);
        if !first.is_empty() {
            self.submit(&first.join("\n---"))?;
            // A pod needs its service account, which a controller makes a moment later.
            for namespace in self.namespaces() {
                let account = ["serviceaccount", "default", "--namespace", &namespace];
                Self::until(Duration::from_secs(120), || self.get(&account).map(drop))?;
            }
        }
        if rest.iter().all(|document| document.trim().is_empty()) {
            return Ok(());
        }
        self.submit(&rest.join("\n---"))
    }

    fn delete(&self, name: &str) -> Result<()> {
        let yaml = self.lock().remove(name).with_context(|| format!("nothing was applied as {name}"))?;
        self.kubectl(&["delete", "--ignore-not-found", "--filename=-"], &yaml).map(drop)
    }

    /// Removes every namespace that was applied, and waits until they are gone.
    fn clear(&self) -> Result<()> {
        let namespaces = self.namespaces();
        self.lock().clear();
        if namespaces.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = namespaces.iter().map(String::as_str).collect();
        let verb = ["delete", "namespace", "--ignore-not-found", "--timeout=300s"];
        self.kubectl(&[&verb[..], &names].concat(), "").map(drop)
    }

    fn object(&self, kind: &str, namespace: &str, name: &str) -> Result<Value> {
        self.get(&[kind, name, "--namespace", namespace])
    }

    /// The definition learns a new filter, the route gets it, and the definition forgets it again.
    fn make_undecodable(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        let definition = format!("{}s.gateway.networking.k8s.io", kind.to_lowercase());
        let old = self.get(&["customresourcedefinition", &definition])?;
        let mut new = old.clone();
        for version in new["spec"]["versions"].as_array_mut().into_iter().flatten() {
            let rules = "/schema/openAPIV3Schema/properties/spec/properties/rules/items/properties";
            let types = version.pointer_mut(&format!("{rules}/filters/items/properties/type/enum"));
            types
                .and_then(Value::as_array_mut)
                .context("no filters in the definition")?
                .push(json!("FromTheFuture"));
        }
        self.kubectl(&["replace", "--filename=-"], &new.to_string())?;
        let patch =
            json!([{ "op": "add", "path": "/spec/rules/0/filters", "value": [{ "type": "FromTheFuture" }] }]);
        let patch = format!("--patch={patch}");
        let edit = ["patch", kind, name, "--namespace", namespace, "--type=json", &patch];
        let edited = Self::until(Duration::from_secs(20), || self.kubectl(&edit, "").map(drop));
        let mut restored = self.get(&["customresourcedefinition", &definition])?;
        restored["spec"] = old["spec"].clone();
        self.kubectl(&["replace", "--filename=-"], &restored.to_string())?;
        edited
    }

    /// `kubectl` with these arguments and this standard input.
    fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no input")?;
        let text = input.to_owned();
        let feeder = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
        let out = child.wait_with_output()?;
        // Who ends before reading everything says why in its own output.
        let _ = feeder.join();
        let complaint = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "kubectl {}: {}", arguments.join(" "), complaint.trim());
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    fn settle(&self) -> Result<()> {
        for namespace in self.namespaces() {
            Self::until(Duration::from_secs(600), || self.pods_are_ready(&namespace))?;
            Self::until(Duration::from_secs(180), || self.routes_are_judged(&namespace))?;
        }
        if self.is_weft() {
            return self.proxies_are_settled();
        }
        // Another mesh does not tell when it carries out what it has accepted.
        sleep(Duration::from_secs(10));
        Ok(())
    }

    fn controller_name(&self) -> &str {
        &self.options.controller_name
    }

    fn is_weft(&self) -> bool {
        self.options.controller_name == WEFT
    }

    fn crowd(&self) -> usize {
        self.options.pods
    }

    fn proxy_log(&self, node: &str) -> Result<String> {
        if !self.is_weft() {
            bail!("this mesh is not Weft");
        }
        self.weft_proxy_log(node)
    }

    fn admin(&self, node: &str, page: &str) -> Result<String> {
        if !self.is_weft() {
            bail!("this mesh is not Weft");
        }
        self.weft_admin(node, page)
    }
}
