//! The same TLS against a program nobody here wrote: Debian's `openssl`. Fails where it is not installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use weft_tls::sni::HelloReader;
use weft_tls::testing::{TestCa, uri};
use weft_tls::{Alpn, PeerCertificate, TlsError};

const DEADLINE: Duration = Duration::from_secs(20);

fn openssl(files: &Files, arguments: &[&str]) -> Child {
    Command::new("openssl")
        .args(arguments)
        .current_dir(files.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("install the package `openssl`")
}

/// `root.pem`, and `leaf.der` with `key.der` of an identity.
struct Files(TempDir);

impl Files {
    fn new(ca: &TestCa, identity: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (chain, key) = ca.certificate(|params| params.subject_alt_names = vec![uri(identity)]);
        std::fs::write(directory.path().join("root.pem"), ca.root_pem()).unwrap();
        std::fs::write(directory.path().join("leaf.der"), &chain[0]).unwrap();
        std::fs::write(directory.path().join("key.der"), key).unwrap();
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

const OWN: [&str; 8] = ["-cert", "leaf.der", "-certform", "DER", "-key", "key.der", "-keyform", "DER"];

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[tokio::test]
async fn openssl_as_client_is_accepted_and_accepts_us() {
    let ca = TestCa::new("td");
    let files = Files::new(&ca, "spiffe://td/ns/shop/sa/web");
    let (listener, address) = listen().await;
    let mut arguments = vec!["s_client", "-connect", &address, "-tls1_3", "-noservername", "-alpn", "x,h2"];
    arguments.extend(["-CAfile", "root.pem", "-verify_return_error", "-purpose", "sslserver", "-quiet"]);
    arguments.extend(OWN);
    let mut client = openssl(&files, &arguments);
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        let accepted = ca.workload(&ca.identity("shop", "cart")).accept(stream).await.unwrap();
        assert_eq!((accepted.peer, accepted.alpn), (ca.identity("shop", "web"), Alpn::Hbone));
        let mut stream = accepted.stream;
        client.stdin.as_mut().unwrap().write_all(b"from openssl\n").await.unwrap();
        let mut line = String::new();
        let mut reader = BufReader::new(&mut stream);
        reader.read_line(&mut line).await.unwrap();
        assert_eq!(line, "from openssl\n");
        stream.write_all(b"from weft\n").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut printed = String::new();
        client.stdout.as_mut().unwrap().read_to_string(&mut printed).await.unwrap();
        assert_eq!(printed, "from weft\n");
    };
    tokio::time::timeout(DEADLINE, serve).await.unwrap();
}

#[tokio::test]
async fn openssl_as_server_is_accepted_and_accepts_us() {
    let ca = TestCa::new("td");
    let files = Files::new(&ca, "spiffe://td/ns/shop/sa/cart");
    let mut arguments = vec!["s_server", "-accept", "127.0.0.1:0", "-tls1_3", "-alpn", "weft-h1", "-rev"];
    arguments.extend(["-CAfile", "root.pem", "-Verify", "1", "-verify_return_error"]);
    arguments.extend(OWN);
    let mut server = openssl(&files, &arguments);
    let call = async {
        let mut output = BufReader::new(server.stdout.as_mut().unwrap()).lines();
        let address = loop {
            let line = output.next_line().await.unwrap().expect("openssl says where it listens");
            if let Some(address) = line.strip_prefix("ACCEPT ") {
                break address.to_owned();
            }
        };
        let client = ca.workload(&ca.identity("shop", "web"));
        let io = TcpStream::connect(&address).await.unwrap();
        let error = client.connect(io, &ca.identity("shop", "other"), Alpn::WeftH1).await.unwrap_err();
        assert!(matches!(error, TlsError::Certificate(PeerCertificate::WrongIdentity { .. })), "{error:?}");
        let io = TcpStream::connect(&address).await.unwrap();
        let mut stream = client.connect(io, &ca.identity("shop", "cart"), Alpn::WeftH1).await.unwrap();
        stream.write_all(b"weft\n").await.unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"tfew\n");
    };
    tokio::time::timeout(DEADLINE, call).await.unwrap();
}

#[tokio::test]
async fn openssl_with_an_old_version_or_without_a_certificate_is_refused() {
    let ca = TestCa::new("td");
    let files = Files::new(&ca, "spiffe://td/ns/shop/sa/web");
    let refused = |extra: &'static [&'static str]| {
        let (ca, files) = (&ca, &files);
        async move {
            let (listener, address) = listen().await;
            let mut arguments = vec!["s_client", "-connect", &address, "-alpn", "h2"];
            arguments.extend(extra);
            let _client = openssl(files, &arguments);
            let serve = async {
                let (stream, _) = listener.accept().await.unwrap();
                ca.workload(&ca.identity("shop", "cart")).accept(stream).await.unwrap_err()
            };
            tokio::time::timeout(DEADLINE, serve).await.unwrap()
        }
    };
    let error =
        refused(&["-tls1_2", "-cert", "leaf.der", "-certform", "DER", "-key", "key.der", "-keyform", "DER"]);
    let error = error.await;
    assert!(matches!(error, TlsError::Incompatible(_)), "{error:?}");
    let error = refused(&["-tls1_3"]).await;
    assert!(matches!(error, TlsError::NoCertificate), "{error:?}");
}

#[tokio::test]
async fn the_server_name_of_openssl_is_read() {
    let files = Files::new(&TestCa::new("td"), "spiffe://td/ns/shop/sa/web");
    for version in ["-tls1_2", "-tls1_3"] {
        let (listener, address) = listen().await;
        let arguments =
            ["s_client", "-connect", &address, "-servername", "Shop.Example", "-alpn", "h2", version];
        let _client = openssl(&files, &arguments);
        let read = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut reader = HelloReader::default();
            loop {
                let mut buffer = [0; 64];
                let read = stream.read(&mut buffer).await.unwrap();
                if let Some(hello) = reader.feed(&buffer[..read]).unwrap() {
                    break hello;
                }
            }
        };
        let hello = tokio::time::timeout(DEADLINE, read).await.unwrap();
        assert_eq!(hello.server_name.as_deref(), Some("shop.example"), "{version}");
        assert_eq!(hello.alpn, [b"h2".to_vec()], "{version}");
    }
}
