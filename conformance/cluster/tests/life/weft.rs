//! A cluster with Weft's images on its nodes, and the programs that users have: kubectl, helm and weft.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_cluster::image::{self, Image};
use weft_cluster::{Cluster, Output};

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// The cluster; taken down when the test ends, also when it fails.
pub(crate) struct Weft {
    pub(crate) cluster: Cluster,
    /// Programs that users have on their machine, and images that the cluster gets.
    files: tempfile::TempDir,
}

impl Drop for Weft {
    fn drop(&mut self) {
        if std::env::var_os("WEFT_KEEP_CLUSTER").is_some() {
            return;
        }
        if let Err(error) = self.cluster.down() {
            eprintln!("{error:#}");
        }
    }
}

/// The checkout.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

/// Where this build's programs are: where `cargo xtask test` built them, or next to the test's own program.
pub(crate) fn programs() -> PathBuf {
    let built = std::env::var_os("WEFT_BIN_DIR").map(PathBuf::from);
    built.unwrap_or_else(|| Path::new(env!("CARGO_BIN_EXE_weft-cluster")).parent().unwrap().to_path_buf())
}

impl Weft {
    /// A cluster of two nodes with Weft's images and those of the examples; nothing is installed.
    pub(crate) fn start(name: &str, options: &[&str]) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_weft-cluster"));
        let name = format!("test-{}-{name}", std::process::id());
        let weft = Self { cluster: Cluster::new(&name, program), files: tempfile::tempdir().unwrap() };
        let binaries = programs();
        symlink(weft_cluster::kubectl().unwrap(), weft.file("kubectl")).unwrap();
        symlink(weft_cluster::helm().unwrap(), weft.file("helm")).unwrap();
        symlink(binaries.join("weft"), weft.file("weft")).unwrap();
        let own = weft.file("weft.tar");
        let mut images = Command::new(program);
        images.arg("images").arg("--bin-dir").arg(&binaries).arg("--out").arg(&own);
        assert!(images.status().unwrap().success(), "cargo xtask test builds the programs first");
        let examples = weft.file("examples.tar");
        image::write(&examples_images(), &examples).unwrap();
        weft.cluster.up(options).unwrap();
        weft.cluster.load_images(&[&own, &examples]).unwrap();
        weft
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// A shell's commands as a user types them: in the checkout, with kubectl, helm and weft.
    pub(crate) fn sh(&self, script: &str) -> Output {
        let path = format!("{}:{}", self.files.path().display(), std::env::var("PATH").unwrap());
        let words =
            ["--", "env", "-C", workspace().to_str().unwrap(), &format!("PATH={path}")].map(str::to_owned);
        let shell = ["bash", "-euc", script].map(str::to_owned);
        let output = self.cluster.command("exec").args(words).args(shell).output().unwrap();
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The same, which must end well; its output.
    #[track_caller]
    pub(crate) fn ok(&self, script: &str) -> String {
        let output = self.sh(script);
        assert_eq!(output.code, 0, "{script}\n{}{}\n{}", output.stdout, output.stderr, self.state());
        output.stdout
    }

    /// Repeats until it ends well.
    #[track_caller]
    pub(crate) fn until(&self, script: &str) -> String {
        let begun = Instant::now();
        loop {
            let output = self.sh(script);
            if output.code == 0 {
                return output.stdout;
            }
            let said = format!("{}{}", output.stdout, output.stderr);
            assert!(begun.elapsed() < PATIENCE, "{script}\n{said}\n{}", self.state());
            sleep(Duration::from_millis(500));
        }
    }

    /// Asks again until the answer is right; the last answer is in the failure.
    #[track_caller]
    pub(crate) fn eventually<T: std::fmt::Debug>(
        &self,
        claim: &str,
        mut ask: impl FnMut() -> T,
        right: impl Fn(&T) -> bool,
    ) {
        let begun = Instant::now();
        loop {
            let answer = ask();
            if right(&answer) {
                return println!("   {claim}");
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "not so: {claim}; the last answer was {answer:?}\n{}",
                self.state()
            );
            sleep(Duration::from_millis(250));
        }
    }

    /// What `kubectl get` says, as JSON.
    #[track_caller]
    pub(crate) fn get(&self, what: &[&str]) -> Value {
        self.cluster.get(what).unwrap()
    }

    /// Every pod of a namespace by UID, with how often its containers were restarted.
    pub(crate) fn pods(&self, namespace: &str) -> BTreeSet<(String, u64)> {
        let pods = self.get(&["pods", "--namespace", namespace]);
        let pod = |pod: &Value| {
            let containers = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
            let restarts = containers.iter().filter_map(|one| one["restartCount"].as_u64()).sum();
            (pod["metadata"]["uid"].as_str().unwrap().to_owned(), restarts)
        };
        pods["items"].as_array().unwrap().iter().map(pod).collect()
    }

    /// Puts back what is missing of the installed chart, with further values.
    pub(crate) fn install(&self, more: &str) {
        self.ok(&format!(
            "helm upgrade weft deploy/helm/weft --namespace weft-system --reuse-values --wait --timeout 5m {more}"
        ));
    }

    /// For the message of a test that fails.
    pub(crate) fn state(&self) -> String {
        let output = self.sh(
            "kubectl get pods -A -o wide; kubectl get events -A --field-selector type=Warning | tail -20
             for part in controller agent proxy; do
               kubectl -n weft-system logs --prefix --tail=25 -l app.kubernetes.io/name=weft-$part || true
             done",
        );
        format!("{}{}", output.stdout, output.stderr)
    }
}

/// The images that `deploy/examples/tasks.yaml` names, from this machine's programs.
fn examples_images() -> Vec<Image> {
    let mut nginx = Image::new("nginx:1", "0");
    nginx.program_at(Path::new("/usr/sbin/nginx"), "usr/sbin/nginx").unwrap();
    let mut curl = Image::new("curlimages/curl:8", "65532");
    curl.program_at(Path::new("/bin/sh"), "bin/sh").unwrap();
    for program in ["curl", "sleep"] {
        curl.program_at(&Path::new("/usr/bin").join(program), &format!("usr/bin/{program}")).unwrap();
    }
    vec![nginx, curl]
}
