//! A place with pods in a mesh, and the ways to call in it.

mod checks;
mod objects;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub use checks::{Checks, patiently, soon};
pub use objects::{
    ECHO, GATEWAYS, HTTP_LISTENER, HTTP_PORTS, IMAGE, LABEL, Port, echo, gateway, http_route, namespace,
    nodes, parameters, pod, route, rule, service, sleeper,
};

/// Where the pods are: a lab or a cluster. What it applies, it may first change as [`ECHO`], [`IMAGE`] and [`LABEL`] say.
pub trait Place: Debug {
    /// The command that runs a program in a pod (`NAMESPACE/POD`).
    fn exec_command(&self, pod: &str, program: &[&str]) -> Command;

    /// Adds objects under a name of their own, or replaces those of that name.
    ///
    /// # Errors
    /// When they are refused.
    fn apply(&self, name: &str, yaml: &str) -> Result<()>;

    /// Removes the objects that `apply` put under this name.
    ///
    /// # Errors
    /// When that fails.
    fn delete(&self, name: &str) -> Result<()>;

    /// Removes everything that was applied.
    ///
    /// # Errors
    /// When something remains.
    fn clear(&self) -> Result<()>;

    /// An object with its status.
    ///
    /// # Errors
    /// When there is none.
    fn object(&self, kind: &str, namespace: &str, name: &str) -> Result<Value>;

    /// Gives a route's first rule a filter that only newer definitions know.
    ///
    /// # Errors
    /// When that fails.
    fn make_undecodable(&self, kind: &str, namespace: &str, name: &str) -> Result<()>;

    /// `kubectl` with these arguments and this standard input, where there is one.
    ///
    /// # Errors
    /// When it fails, or in a lab.
    fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String>;

    /// Waits until the mesh carries out what was applied.
    ///
    /// # Errors
    /// When that takes too long.
    fn settle(&self) -> Result<()>;

    /// The `controllerName` of the entries that the mesh writes into routes' statuses.
    fn controller_name(&self) -> &str;

    /// Whether the mesh is Weft.
    fn is_weft(&self) -> bool;

    /// How many pods are to be started at once where that is asked.
    fn crowd(&self) -> usize {
        30
    }

    /// What Weft's proxy of a node has logged.
    ///
    /// # Errors
    /// When it cannot be read, or another mesh is tested.
    fn proxy_log(&self, node: &str) -> Result<String>;

    /// What the admin server of a node's proxy answers.
    ///
    /// # Errors
    /// When it does not answer, or another mesh is tested.
    fn admin(&self, node: &str, page: &str) -> Result<String>;
}

/// Pods in a mesh.
#[derive(Debug)]
pub struct Mesh {
    place: Box<dyn Place>,
}

/// A pod's address.
///
/// # Errors
/// When it has none of that family.
pub fn pod_address(mesh: &Mesh, namespace: &str, name: &str, v6: bool) -> Result<String> {
    let object = mesh.object("Pod", namespace, name)?;
    let all = object.pointer("/status/podIPs").and_then(Value::as_array);
    let all = all.into_iter().flatten().filter_map(|ip| ip.get("ip")?.as_str());
    let ip = all.into_iter().find(|ip| ip.contains(':') == v6);
    ip.map(str::to_owned).with_context(|| format!("{namespace}/{name} has no address of this family"))
}

/// A Gateway's addresses, IPv4 first.
///
/// # Errors
/// When it has none.
pub fn gateway_addresses(mesh: &Mesh, namespace: &str, name: &str) -> Result<Vec<String>> {
    let gateway = mesh.object("Gateway", namespace, name)?;
    let all = gateway.pointer("/status/addresses").and_then(Value::as_array);
    let all = all.into_iter().flatten().filter_map(|address| address.get("value")?.as_str());
    let mut all: Vec<String> = all.map(str::to_owned).collect();
    all.sort_by_key(|address| address.contains(':'));
    ensure!(!all.is_empty(), "Gateway {namespace}/{name} has no address");
    Ok(all)
}

/// The access log in what a proxy has logged, a JSON object a line.
#[must_use]
pub fn log_lines(text: &str) -> Vec<Value> {
    text.lines().filter_map(|line| serde_json::from_str(line.get(line.find('{')?..)?).ok()).collect()
}

/// A condition in an entry of an object's status: status and reason (`True Accepted`).
///
/// # Errors
/// When there is none, or it is not of the object's present generation.
pub fn standing(entry: &Value, object: &Value, condition: &str) -> Result<String> {
    let conditions = entry.get("conditions").and_then(Value::as_array);
    let found = conditions.into_iter().flatten().find(|one| one.get("type").is_some_and(|t| t == condition));
    let found = found.with_context(|| format!("no {condition} in {entry}"))?;
    let generation = object.pointer("/metadata/generation");
    ensure!(found.get("observedGeneration") == generation, "not of generation {generation:?}: {found}");
    let text = |field: &str| found.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(format!("{} {}", text("status"), text("reason")))
}

/// What the status of a policy or an XBackend says: of each entry the ancestor's kind, the controller, and `Accepted`.
///
/// # Errors
/// When it says nothing, or nothing of the object's present generation.
pub fn ancestors(mesh: &Mesh, kind: &str, namespace: &str, name: &str) -> Result<Vec<[String; 3]>> {
    let object = mesh.object(kind, namespace, name)?;
    let entries = object.pointer("/status/ancestors").and_then(Value::as_array).context("no status")?.iter();
    let text =
        |entry: &Value, at: &str| entry.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    let one = |entry: &Value| {
        let accepted = standing(entry, &object, "Accepted")?;
        Ok([text(entry, "/ancestorRef/kind"), text(entry, "/controllerName"), accepted])
    };
    entries.map(one).collect()
}

/// An HTTP answer as curl printed it.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status, of the last head that was not interim.
    pub status: u16,
    /// That head's fields, names in lower case.
    pub headers: BTreeMap<String, Vec<String>>,
    /// Everything after it.
    pub body: String,
}

impl Answer {
    /// Reads what `curl --include` prints, interim answers skipped.
    pub fn read(text: &str) -> Result<Self> {
        let mut rest = text;
        loop {
            let (head, body) = rest.split_once("\r\n\r\n").context(format!("no HTTP answer: {text:?}"))?;
            let mut lines = head.lines();
            let status: u16 = lines
                .next()
                .and_then(|l| l.split(' ').nth(1))
                .and_then(|s| s.parse().ok())
                .context(text.to_owned())?;
            rest = body;
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (name, value) in lines.filter_map(|l| l.split_once(':')) {
                headers.entry(name.to_ascii_lowercase()).or_default().push(value.trim().to_owned());
            }
            return Ok(Self { status, headers, body: body.to_owned() });
        }
    }

    /// What the echo server received.
    pub fn echoed(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not from the echo server: {self:?}"))
    }

    /// The echo server's name.
    pub fn name(&self) -> Result<String> {
        Ok(self.echoed()?.get("name").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// The path and query that reached the echo server.
    pub fn path(&self) -> Result<String> {
        Ok(self.echoed()?.get("path").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// All values of a header that reached the echo server.
    pub fn received(&self, header: &str) -> Result<Vec<String>> {
        let echoed = self.echoed()?;
        let values = echoed.get("headers").and_then(|h| h.get(header)).and_then(Value::as_array);
        Ok(values.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect())
    }

    /// All values of a header of the answer.
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers.get(name).into_iter().flatten().map(String::as_str).collect()
    }

    /// Fails unless the status is this and, if a name is given, this echo server answered.
    pub fn expect(&self, status: u16, name: &str) -> Result<()> {
        ensure!(self.status == status, "status {} instead of {status}: {}", self.status, self.body.trim());
        if !name.is_empty() {
            let who = self.name()?;
            ensure!(who == name, "{who} answered instead of {name}");
        }
        Ok(())
    }
}

/// An address as it stands in a URL.
#[must_use]
pub fn host(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// How often each line occurs.
pub fn tally(text: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    counts
}

impl Mesh {
    /// A mesh in a place where everything that was applied is settled.
    #[must_use]
    pub fn new(place: Box<dyn Place>) -> Self {
        Self { place }
    }

    /// The place.
    #[must_use]
    pub fn place(&self) -> &dyn Place {
        &*self.place
    }

    /// Waits until the mesh carries out what was applied.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn settle(&self) -> Result<()> {
        self.place.settle()
    }

    /// Adds objects under a name of their own, or replaces those of that name.
    ///
    /// # Errors
    /// When they are refused.
    pub fn apply(&self, name: &str, yaml: &str) -> Result<()> {
        self.place.apply(name, yaml)
    }

    /// Removes the objects that `apply` put under this name.
    ///
    /// # Errors
    /// When that fails.
    pub fn delete(&self, name: &str) -> Result<()> {
        self.place.delete(name)
    }

    /// Removes everything that was applied.
    ///
    /// # Errors
    /// When something remains.
    pub fn clear(&self) -> Result<()> {
        self.place.clear()
    }

    /// `kubectl` with these arguments and this standard input.
    ///
    /// # Errors
    /// When it fails, or in a lab.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        self.place.kubectl(arguments, input)
    }

    /// An object with its status.
    ///
    /// # Errors
    /// When there is none.
    pub fn object(&self, kind: &str, namespace: &str, name: &str) -> Result<Value> {
        self.place.object(kind, namespace, name)
    }

    /// Whether the mesh is Weft, of which more is asked than of another.
    #[must_use]
    pub fn is_weft(&self) -> bool {
        self.place.is_weft()
    }

    /// What Weft's proxy of a node has logged.
    ///
    /// # Errors
    /// Where another mesh is tested: such checks are made with [`Checks::own`].
    pub fn proxy_log(&self, node: &str) -> Result<String> {
        self.place.proxy_log(node)
    }

    /// What the admin server of a node's proxy says (`metrics`, `config`).
    ///
    /// # Errors
    /// When it does not answer, or where another mesh is tested.
    pub fn admin(&self, node: &str, page: &str) -> Result<String> {
        self.place.admin(node, page)
    }

    /// Runs a program in a pod; fails with its output if it fails.
    pub fn run(&self, pod: &str, program: &[&str]) -> Result<String> {
        let out = self.place.exec_command(pod, program).stdin(Stdio::null()).output()?;
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        ensure!(out.status.success(), "{} ended with {}: {stdout}{stderr}", program.join(" "), out.status);
        Ok(stdout.into_owned())
    }

    /// Runs a shell script in a pod, whatever its exit code: standard output and standard error.
    pub fn shell(&self, pod: &str, script: &str) -> Result<String> {
        let out = self.place.exec_command(pod, &["bash", "-c", script]).stdin(Stdio::null()).output()?;
        Ok(format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
    }

    /// Runs a program in a pod with standard input.
    pub fn pipe(&self, pod: &str, program: &[&str], input: &[u8]) -> Result<String> {
        let mut command = self.place.exec_command(pod, program);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ends early does not read all of it.
            let _ = stdin.write_all(input);
        }
        let out = child.wait_with_output()?;
        Ok(format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
    }

    /// One request by curl with these arguments.
    pub fn curl(&self, pod: &str, arguments: &[&str]) -> Result<Answer> {
        let mut program = vec!["curl", "-sS", "-i", "-m", "15"];
        program.extend(arguments);
        Answer::read(&self.run(pod, &program)?)
    }

    /// Many requests by one curl on one connection; how often each status and echo server answered (`200 v1`, `500`).
    pub fn many(
        &self,
        pod: &str,
        count: usize,
        url: &str,
        arguments: &[&str],
    ) -> Result<BTreeMap<String, usize>> {
        let mark = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{mark}n=[1-{count}]");
        let mut program = vec!["curl", "-sS", "-m", "30", "-w", "\n%{http_code}\n", url.as_str()];
        program.extend(arguments);
        let text = self.run(pod, &program)?;
        let mut counts = BTreeMap::new();
        let mut name = String::new();
        for line in text.lines().filter(|l| !l.is_empty()) {
            if let Ok(echoed) = serde_json::from_str::<Value>(line)
                && let Some(who) = echoed.get("name").and_then(Value::as_str)
            {
                name = format!(" {who}");
            } else if line.len() == 3 && line.bytes().all(|b| b.is_ascii_digit()) {
                *counts.entry(format!("{line}{}", std::mem::take(&mut name))).or_default() += 1;
            }
        }
        Ok(counts)
    }

    /// The condition of a route's status for its first parent, as this mesh wrote it: status and reason (`True Accepted`).
    ///
    /// # Errors
    /// When there is none.
    pub fn condition(&self, kind: &str, namespace: &str, name: &str, condition: &str) -> Result<String> {
        self.condition_by(self.place.controller_name(), [kind, namespace, name], condition)
    }

    /// The same in the first entry of a controller, of a route (given by kind, namespace and name) or of a policy.
    ///
    /// # Errors
    /// When there is none, or it is not of the object's present generation.
    pub fn condition_by(&self, controller: &str, object: [&str; 3], condition: &str) -> Result<String> {
        let [kind, namespace, name] = object;
        let object = self.object(kind, namespace, name)?;
        let entries = ["/status/parents", "/status/ancestors"].iter().find_map(|at| object.pointer(at));
        let mut entries = entries.and_then(Value::as_array).context("no status")?.iter();
        let entry = entries.find(|entry| entry.get("controllerName").is_some_and(|name| name == controller));
        let entry = entry.with_context(|| format!("no entry of {controller}: {object}"))?;
        standing(entry, &object, condition)
    }
}
