//! The installer on folders, with a primary CNI that writes as it likes.

use std::os::unix::fs::PermissionsExt;

use clap::Parser;

use super::*;

const LIST: &str = "{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"net\",\n  \"plugins\": [\n    {\"type\": \"ptp\"}\n  ]\n}\n";

struct Node {
    root: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["bin", "net.d"] {
            fs::create_dir(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("weft-cni"), "first").unwrap();
        Self { root }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn installer(&self) -> Installer {
        let path = |path: &str| self.path(path).display().to_string();
        let config = Config::parse_from([
            "weft-agent",
            "--node=one",
            "--folder=none",
            "--namespace=mesh",
            "--exempt-namespace=storage,kube-system",
            &format!("--cni-plugin={}", path("weft-cni")),
            &format!("--cni-bin-dir={}", path("bin")),
            &format!("--cni-conf-dir={}", path("net.d")),
        ]);
        Installer::new(&config).unwrap()
    }

    fn list(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path("net.d/10-net.conflist")).unwrap()).unwrap()
    }
}

#[test]
fn plugin_and_entry_are_put_in_place_and_taken_away_to_the_byte() {
    let node = Node::new();
    let mut installer = node.installer();
    assert!(installer.pass().unwrap_err().to_string().contains("no CNI configuration yet"));
    let conflist = node.path("net.d/10-net.conflist");
    fs::write(&conflist, LIST).unwrap();
    fs::set_permissions(&conflist, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(installer.pass().unwrap(), "10-net.conflist");
    let entry = node.list()["plugins"][1].clone();
    assert_eq!(entry["type"], "weft-cni");
    assert_eq!(entry["agentSocket"], "/run/weft/cni.sock");
    assert_eq!(
        entry["excludeNamespaces"],
        serde_json::json!(["kube-system", "mesh", "storage", "weft-system"])
    );
    assert_eq!(entry["logFile"], "/var/log/weft-cni.log");
    assert_eq!(fs::metadata(&conflist).unwrap().permissions().mode() & 0o777, 0o600);
    let copy = node.path("bin/weft-cni");
    assert_eq!(fs::read(&copy).unwrap(), b"first");
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o755);
    installer.remove().unwrap();
    assert_eq!(fs::read_to_string(&conflist).unwrap(), LIST);
    assert_eq!(fs::read_dir(node.path("bin")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(node.path("net.d")).unwrap().count(), 1);
    installer.remove().unwrap();
}

#[test]
fn binary_is_replaced_when_it_or_its_copy_changes_and_not_otherwise() {
    let node = Node::new();
    let mut installer = node.installer();
    let copy = node.path("bin/weft-cni");
    installer.binary.install().unwrap();
    let before = fs::metadata(&copy).unwrap().ino();
    installer.binary.install().unwrap();
    node.installer().binary.install().unwrap();
    assert_eq!(fs::metadata(&copy).unwrap().ino(), before, "equal files are left alone");
    fs::write(&copy, "other").unwrap();
    installer.binary.install().unwrap();
    assert_eq!(fs::read(&copy).unwrap(), b"first");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
    installer.binary.install().unwrap();
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o755);
    fs::write(node.path("weft-cni"), "second").unwrap();
    installer.binary.install().unwrap();
    assert_eq!(fs::read(&copy).unwrap(), b"second");
}

#[test]
fn file_that_changed_since_it_was_read_is_not_overwritten() {
    let node = Node::new();
    let conflist = node.path("net.d/10-net.conflist");
    fs::write(&conflist, LIST).unwrap();
    let installer = node.installer();
    let files = read(&installer.conf_dir).unwrap();
    let (plan, _) = plan::chain(&files, &installer.entry);
    let newer = LIST.replace("ptp", "bridge");
    fs::write(&conflist, &newer).unwrap();
    assert!(carry_out(&installer.conf_dir, &files, &plan).is_err());
    assert_eq!(fs::read_to_string(&conflist).unwrap(), newer);
}

#[tokio::test]
async fn entry_and_binary_come_back_when_others_take_them_away() {
    let node = Node::new();
    let (state, mut installed) = watch::channel(Installed::Unknown);
    let (tables, pods) = watch::channel(None);
    let installer = node.installer();
    let running = tokio::spawn(async move { run(installer, &state, pods).await });
    assert!(!node.path("bin/weft-cni").exists(), "nothing is done before it is known whether to install");
    tables.send_replace(Some(Arc::new(Table::default())));
    let said = installed.wait_for(|state| matches!(state, Installed::No(_))).await.unwrap().clone();
    assert!(matches!(&said, Installed::No(why) if why.contains("no CNI configuration yet")), "{said:?}");
    let conflist = node.path("net.d/10-net.conflist");
    for text in [LIST.to_owned(), LIST.replace("ptp", "bridge")] {
        fs::write(&conflist, &text).unwrap();
        eventually(|| fs::read_to_string(&conflist).is_ok_and(|found| found.contains("weft-cni"))).await;
        let plugins = node.list()["plugins"].as_array().unwrap().len();
        assert_eq!(plugins, 2);
    }
    let wanted = Installed::Yes("10-net.conflist".into());
    assert_eq!(*installed.wait_for(|state| *state == wanted).await.unwrap(), wanted);
    fs::remove_file(node.path("bin/weft-cni")).unwrap();
    eventually(|| node.path("bin/weft-cni").exists()).await;
    tables.send_replace(Some(Arc::new(Table { leaving: true, ..Table::default() })));
    installed.wait_for(|state| *state == Installed::Removed).await.unwrap();
    assert!(!fs::read_to_string(&conflist).unwrap().contains("weft-cni"));
    assert!(!node.path("bin/weft-cni").exists());
    tables.send_replace(Some(Arc::new(Table::default())));
    installed.wait_for(|state| *state == wanted).await.unwrap();
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    assert!(fs::read_to_string(&conflist).unwrap().contains("weft-cni"), "an agent that ends leaves it");
}

async fn eventually(holds: impl Fn() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited).await.unwrap();
}
