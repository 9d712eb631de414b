//! A running lab, driven through the `weft` binary as a user would drive it.

mod in_force;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

/// The lab reads its folder many times a second; a machine that has much else to do may take longer.
const FOLDER_READ: Duration = Duration::from_secs(60);

/// Starts a lab and takes it down when dropped, also when the test panics.
#[derive(Debug)]
pub struct Lab {
    name: String,
    weft: PathBuf,
    folder: PathBuf,
    // Removed after the lab.
    home: TempDir,
}

/// What a program in a pod printed, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output of a program that ended well; panics otherwise.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }
}

/// How a lab is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Further arguments of `weft lab up`, such as `--no-mesh`.
    pub arguments: Vec<String>,
    /// Environment of the Weft processes, such as `WEFT_WORKERS`.
    pub environment: Vec<(String, String)>,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Lab {
    /// A lab from YAML text, with Weft. Fails if not everything becomes ready.
    pub fn up(yaml: &str) -> Result<Self> {
        Self::up_with(yaml, &Options::default())
    }

    /// A lab without Weft: the plain cluster.
    pub fn up_without_mesh(yaml: &str) -> Result<Self> {
        Self::up_with(yaml, &Options { arguments: vec!["--no-mesh".to_owned()], ..Options::default() })
    }

    /// A lab from a folder of YAML files. The folder is copied: edits by the test stay its own.
    pub fn up_folder(folder: &Path) -> Result<Self> {
        let lab = Self::prepare()?;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.path().is_file() {
                fs::copy(entry.path(), lab.folder.join(entry.file_name()))?;
            }
        }
        lab.start(&Options::default())?;
        Ok(lab)
    }

    /// A lab from YAML text, started as the options say.
    pub fn up_with(yaml: &str, options: &Options) -> Result<Self> {
        let lab = Self::prepare()?;
        lab.write("main.yaml", yaml)?;
        lab.start(options)?;
        Ok(lab)
    }

    fn prepare() -> Result<Self> {
        let home = tempfile::Builder::new().prefix("weft-test-").tempdir()?;
        let folder = home.path().join("objects");
        fs::create_dir(&folder)?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("t-{}-{count}", std::process::id());
        Ok(Self { name, weft: weft_binary()?, folder, home })
    }

    fn start(&self, options: &Options) -> Result<()> {
        let mut command = self.command(&["up", "--folder"]);
        command.arg(&self.folder).args(&options.arguments);
        command.envs(options.environment.iter().map(|(k, v)| (k, v)));
        let out = command.output()?;
        if !out.status.success() {
            let told =
                format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            bail!("weft lab up failed: {told}\n{}", self.all_logs());
        }
        in_force::wait(self)
    }

    /// `weft lab ARGS --name NAME`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.weft);
        let (verb, rest) = arguments.split_first().map_or((&"status", &[][..]), |(v, r)| (v, r));
        command.arg("lab").arg(verb).args(["--name", &self.name]);
        command.arg("--state-dir").arg(self.home.path().join("state")).args(rest).stdin(Stdio::null());
        command
    }

    /// The command that runs a program in a pod, to be spawned by the test.
    pub fn exec_command(&self, pod: &str, program: &[&str]) -> Command {
        let mut arguments = vec!["exec", pod, "--"];
        arguments.extend(program);
        self.command(&arguments)
    }

    /// Runs a program in a pod (`NAMESPACE/POD`), or on a node (`node/node1`).
    pub fn exec(&self, pod: &str, program: &[&str]) -> Result<Output> {
        let out = self.exec_command(pod, program).output()?;
        Ok(Output {
            code: out.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        })
    }

    /// What a node's proxy answers on its admin port.
    pub fn admin(&self, node: &str, path: &str) -> Result<Output> {
        let url = format!("http://127.0.0.1:15000/{path}");
        self.exec(&format!("node/{node}"), &["curl", "-sSf", "-m", "5", &url])
    }

    /// Asks again and again until the answer is yes; fails with `what` after the time.
    pub fn wait_until(
        &self,
        what: &str,
        patience: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        #[allow(clippy::disallowed_methods)]
        let end = Instant::now() + patience;
        while !done(self) {
            #[allow(clippy::disallowed_methods)]
            if Instant::now() > end {
                bail!(
                    "not within {patience:?}: {what}\n{}",
                    self.status().map(|s| format!("{s:#}")).unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Writes a file of the lab's folder: new objects, or an edit of known ones.
    pub fn write(&self, file: &str, yaml: &str) -> Result<()> {
        // Renamed into place, so that the lab never reads half of it.
        let temporary = self.folder.join(format!(".{file}.new"));
        fs::write(&temporary, yaml)?;
        fs::rename(temporary, self.folder.join(file)).context("cannot write the object")
    }

    /// Adds objects under a name of their own, or replaces those of that name, and waits until
    /// the lab has read them.
    pub fn apply(&self, name: &str, yaml: &str) -> Result<()> {
        let before = self.folder_version();
        self.write(&format!("{name}.yaml"), yaml)?;
        self.wait_until("the lab reads the folder", FOLDER_READ, |lab| lab.folder_version() != before)
    }

    /// Removes the objects that `apply` put under this name.
    pub fn delete(&self, name: &str) -> Result<()> {
        let before = self.folder_version();
        fs::remove_file(self.folder.join(format!("{name}.yaml")))?;
        self.wait_until("the lab reads the folder", FOLDER_READ, |lab| lab.folder_version() != before)
    }

    fn folder_version(&self) -> u64 {
        self.status().ok().and_then(|s| s.get("folderVersion")?.as_u64()).unwrap_or(0)
    }

    /// `weft lab status -o json`.
    pub fn status(&self) -> Result<Value> {
        let out = self.command(&["status", "-o", "json"]).output()?;
        if !out.status.success() {
            bail!("{}", String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(serde_json::from_slice(&out.stdout)?)
    }

    /// The pods' part of the status whose namespace and name (or Deployment) are these.
    pub fn pods(&self, namespace: &str, name: &str) -> Result<Vec<Value>> {
        let status = self.status()?;
        let all = status.get("pods").and_then(Value::as_array).cloned().unwrap_or_default();
        let is =
            |pod: &Value, field: &str, value: &str| pod.get(field).and_then(Value::as_str) == Some(value);
        Ok(all
            .into_iter()
            .filter(|p| is(p, "namespace", namespace) && (is(p, "name", name) || is(p, "deployment", name)))
            .collect())
    }

    /// The status that the controller wrote for an object, if any.
    pub fn object_status(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let file = self.state().join(format!("status/{kind}/{namespace}/{name}.json"));
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    }

    /// An object as it stands in the cluster.
    pub fn object(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let file = self.state().join(format!("cluster/{kind}/{namespace}/{name}.json"));
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    }

    /// All objects of a kind as they stand in the cluster.
    pub fn objects(&self, kind: &str) -> Vec<Value> {
        let folders = fs::read_dir(self.state().join("cluster").join(kind)).into_iter().flatten().flatten();
        let files = folders.filter_map(|folder| fs::read_dir(folder.path()).ok()).flatten().flatten();
        files.filter_map(|file| serde_json::from_slice(&fs::read(file.path()).ok()?).ok()).collect()
    }

    /// What a daemon (`node1/proxy`) or a pod has written.
    pub fn logs(&self, source: &str) -> String {
        let out = self.command(&["logs", source]).output();
        out.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
    }

    /// Kills one of Weft's processes the hard way (`node1/proxy`).
    pub fn kill_daemon(&self, name: &str) -> Result<()> {
        let status = self.status()?;
        let daemons = status.get("daemons").and_then(Value::as_array).cloned().unwrap_or_default();
        let pid = daemons
            .iter()
            .find(|d| d.get("name").and_then(Value::as_str) == Some(name))
            .and_then(|d| d.get("pid")?.as_i64());
        let Some(pid) = pid else { bail!("{name} does not run") };
        self.exec("node/node1", &["kill", "-9", &pid.to_string()])
            .map(|out| assert_eq!(out.code, 0, "{}", out.stderr))
    }

    /// The lab's state folder.
    pub fn state(&self) -> PathBuf {
        self.home.path().join("state").join(&self.name)
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn all_logs(&self) -> String {
        let mut text = String::new();
        let mut folders = vec![self.state().join("logs")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    folders.push(entry.path());
                } else {
                    let log = fs::read_to_string(entry.path()).unwrap_or_default();
                    let tail = log
                        .lines()
                        .rev()
                        .take(30)
                        .collect::<Vec<_>>()
                        .into_iter()
                        .rev()
                        .collect::<Vec<_>>()
                        .join("\n");
                    text += &format!("--- {}\n{tail}\n", entry.path().display());
                }
            }
        }
        text
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.all_logs());
        }
        match self.command(&["down"]).output() {
            Ok(out) if out.status.success() => {}
            Ok(out) => eprintln!("weft lab down: {}", String::from_utf8_lossy(&out.stderr)),
            Err(error) => eprintln!("weft lab down: {error}"),
        }
    }
}

/// The `weft` binary of this build: beside the test's own folder, or what `WEFT_BIN` names.
#[allow(clippy::disallowed_methods)]
fn weft_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("WEFT_BIN") {
        return Ok(PathBuf::from(path));
    }
    let test = std::env::current_exe()?;
    let found = test.ancestors().skip(1).take(3).map(|dir| dir.join("weft")).find(|p| p.is_file());
    found.context("no `weft` binary beside the tests: run `cargo build` first")
}
