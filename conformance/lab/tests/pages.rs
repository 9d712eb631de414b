//! The book's pages about Gateways: what they write in YAML is applied as it stands, and does what they say.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use weft_conformance::objects::{namespace, nginx, pod, service, shell};
use weft_conformance::{Checks, Lab, curl};

const PATIENCE: Duration = Duration::from_secs(60);

/// All blocks of YAML on a page.
fn yaml(page: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().join("docs");
    let text = std::fs::read_to_string(folder.join(page).with_extension("md")).unwrap();
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while lines.any(|line| line == "```yaml") {
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push(block.join("\n"));
    }
    assert!(!blocks.is_empty(), "{page} has no YAML");
    blocks.join("\n---\n") + "\n"
}

/// The Services that the pages name.
fn cluster() -> String {
    let echo = "[socat, 'TCP6-LISTEN:5432,ipv6only=0,fork,reuseaddr', 'EXEC:hostname']";
    let names = "[socat, 'UDP6-RECVFROM:53,ipv6only=0,fork', 'EXEC:cat']";
    [
        namespace("shop", "weft-mesh.dev/mesh: enabled"),
        nginx("shop", "catalog-v1", "node1"),
        nginx("shop", "catalog-v2", "node2"),
        service("shop", "catalog", "{ name: http, port: 80 }").replace("app: catalog", "app: catalog-v1"),
        pod("shop", "ledger", "node1", echo),
        service("shop", "ledger", "{ name: tcp, port: 5432, appProtocol: tcp }"),
        pod("shop", "ledger-next", "node2", echo),
        service("shop", "ledger-next", "{ name: tcp, port: 5432, appProtocol: tcp }"),
        pod("shop", "names", "node2", names),
        service("shop", "names", "{ name: dns, port: 53, protocol: UDP }"),
        shell("shop", "caller", "node1"),
    ]
    .concat()
}

/// What a program of this machine says.
fn here(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).stdin(Stdio::null()).output().expect(program);
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The IPv4 address of a Gateway that is programmed.
fn address(lab: &Lab, gateway: &str) -> String {
    let found = || {
        let status = lab.object_status("Gateway", "shop", gateway)?;
        let conditions = status["status"]["conditions"].as_array()?;
        conditions.iter().find(|one| one["type"] == "Programmed" && one["status"] == "True")?;
        let addresses = status["status"]["addresses"].as_array()?;
        addresses
            .iter()
            .filter_map(|one| one["value"].as_str())
            .find(|it| !it.contains(':'))
            .map(str::to_owned)
    };
    lab.wait_until("the Gateway is programmed", PATIENCE, |_| found().is_some()).unwrap();
    found().unwrap()
}

#[test]
fn what_the_pages_write_does_what_they_say() {
    let lab = Lab::up(&cluster()).unwrap();
    let mut checks = Checks::default();
    checks.check("expose-a-service: a Gateway and a route, with parameters", || {
        lab.apply("page", &yaml("expose-a-service")).unwrap();
        let url = format!("http://{}/", address(&lab, "front"));
        lab.wait_until("the Service answers", PATIENCE, |_| {
            here("curl", &["-s", "-m", "8", &url]).starts_with("catalog-v1 ")
        })
        .unwrap();
        lab.delete("page").unwrap();
    });
    checks.check("tcp-and-udp: bytes by weight, datagrams there and back", || {
        lab.apply("page", &yaml("tcp-and-udp")).unwrap();
        let at = address(&lab, "data");
        let ask = || here("bash", &["-c", &format!("socat -T 3 - TCP:{at}:5432 </dev/null")]);
        lab.wait_until("the ledger answers", PATIENCE, |_| ask().starts_with("ledger")).unwrap();
        let all: Vec<String> = (0..10).map(|_| ask().trim().to_owned()).collect();
        assert_eq!(all.iter().filter(|name| *name == "ledger-next").count(), 1, "{all:?}");
        let names = || here("bash", &["-c", &format!("echo asked | socat -t 3 -T 3 - UDP:{at}:53")]);
        lab.wait_until("names answers", PATIENCE, |_| names() == "asked\n").unwrap();
        lab.delete("page").unwrap();
    });
    checks.check("one-route: the same version for who calls from outside and from inside", || {
        lab.apply("page", &yaml("one-route")).unwrap();
        let at = address(&lab, "both");
        let resolve = format!("catalog.shop.example:80:{at}");
        for (field, version) in [("x-tester: yes", "catalog-v2 "), ("x-tester: no", "catalog-v1 ")] {
            let outside =
                ["-s", "-m", "8", "--resolve", &resolve, "-H", field, "http://catalog.shop.example/"];
            lab.wait_until("the version outside", PATIENCE, |_| here("curl", &outside).starts_with(version))
                .unwrap();
            let inside = ["-H", field, "http://catalog/"];
            lab.wait_until("the version inside", PATIENCE, |l| {
                curl(l, "shop/caller", &inside).stdout.starts_with(version)
            })
            .unwrap();
        }
        // At the Gateway the host counts.
        let other = ["-s", "-m", "8", "-o", "/dev/null", "-w", "%{http_code}", &format!("http://{at}/")];
        assert_eq!(here("curl", &other), "404");
    });
    checks.finish();
}
