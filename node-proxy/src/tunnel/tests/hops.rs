//! Whole ways: a raw client, the HTTP server, the tunnel, a raw application. Expectations and upgrades need all of them.

use std::rc::Rc;

use super::*;
use crate::http_server::{self, HttpVersion, Limits};

/// A connection to a server that sends every request through the tunnel to the callee's `port`.
async fn client(world: &Rc<World>, port: u16) -> TcpStream {
    TcpStream::connect(server(world, port, HttpVersion::Http1).await).await.unwrap()
}

async fn server(world: &Rc<World>, port: u16, version: HttpVersion) -> std::net::SocketAddr {
    let listener = TcpListener::bind((CALLER, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let world = world.clone();
    tokio::task::spawn_local(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let handler = move |request| {
            let world = world.clone();
            async move {
                let selected = world.tunnelled(port, AppProtocol::Http);
                match send(&world, &selected, request).await {
                    Ok(response) => response,
                    Err(error) => {
                        let mut response = http::Response::new(Body::text(error.to_string()));
                        *response.status_mut() = StatusCode::BAD_GATEWAY;
                        response
                    }
                }
            }
        };
        let closing = std::future::pending();
        let _ = http_server::serve(stream, version, &Limits::default(), closing, handler).await;
    });
    address
}

const EXPECTING: &[u8] = b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";

#[test]
fn continue_reaches_the_client_only_when_the_application_says_it() {
    world::run(|world| async move {
        world::application(8080, |mut stream, _| async move {
            let head = world::read_head(&mut stream).await.unwrap();
            assert!(head.contains("expect: 100-continue"), "{head}");
            tokio::time::sleep(Duration::from_millis(200)).await;
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            let mut body = [0; 5];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await.unwrap();
            stream.write_all(&body).await.unwrap();
        })
        .await;
        let mut client = client(&world, 8080).await;
        client.write_all(EXPECTING).await.unwrap();
        let started = tokio::time::Instant::now();
        assert_eq!(world::read_head(&mut client).await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
        let waited = started.elapsed();
        assert!(waited >= Duration::from_millis(190) && waited < Duration::from_millis(900), "{waited:?}");
        client.write_all(b"hello").await.unwrap();
        assert!(world::read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
        let mut body = [0; 5];
        client.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"hello");
    });
}

#[test]
fn final_answer_instead_of_continue_passes_without_a_continue_before_it() {
    world::run(|world| async move {
        world::application(8080, |mut stream, _| async move {
            world::read_head(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 417 No\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            // Whoever sends the body now has not waited.
            assert_eq!(stream.read(&mut [0; 5]).await.unwrap_or(0), 0);
        })
        .await;
        let mut client = client(&world, 8080).await;
        client.write_all(EXPECTING).await.unwrap();
        let head = world::read_head(&mut client).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 417 "), "{head}");
    });
}

#[test]
fn application_that_does_not_know_expectations_gets_the_body_after_a_while() {
    world::run(|world| async move {
        world::application(8080, |mut stream, _| async move {
            world::read_head(&mut stream).await.unwrap();
            let mut body = [0; 5];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        })
        .await;
        let mut client = client(&world, 8080).await;
        client.write_all(EXPECTING).await.unwrap();
        assert_eq!(world::read_head(&mut client).await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
        client.write_all(b"hello").await.unwrap();
        assert!(world::read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    });
}

#[test]
fn upgraded_connection_carries_bytes_both_ways() {
    world::run(|world| async move {
        world::application(8080, |mut stream, _| async move {
            let head = world::read_head(&mut stream).await.unwrap();
            assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
            let answer =
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhi";
            stream.write_all(answer.as_bytes()).await.unwrap();
            while let Ok(byte) = stream.read_u8().await {
                stream.write_all(&[byte + 1]).await.unwrap();
            }
        })
        .await;
        let mut client = client(&world, 8080).await;
        let request =
            "GET /chat HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        let head = world::read_head(&mut client).await.unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 ") && head.contains("upgrade: websocket"), "{head}");
        let mut greeting = [0; 2];
        client.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"hi");
        for byte in [1, 5, 9] {
            client.write_all(&[byte]).await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), byte + 1);
        }
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut greeting).await.unwrap(), 0);
    });
}

#[test]
fn protocol_switch_that_nobody_asked_for_is_a_bad_gateway() {
    world::run(|world| async move {
        world::application(8080, |mut stream, _| async move {
            world::read_head(&mut stream).await.unwrap();
            let answer = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let mut client = client(&world, 8080).await;
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let head = world::read_head(&mut client).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    });
}

#[test]
fn get_with_a_chunked_body_arrives_with_its_body() {
    world::run(|world| async move {
        world::application(8080, |mut stream, _| async move {
            let head = world::read_head(&mut stream).await.unwrap();
            assert!(head.contains("transfer-encoding: chunked"), "{head}");
            let mut body = [0; 15];
            stream.read_exact(&mut body).await.unwrap();
            assert_eq!(&body, b"5\r\nhello\r\n0\r\n\r\n");
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        })
        .await;
        let mut client = client(&world, 8080).await;
        let request =
            "GET / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        assert!(world::read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 200 "));
    });
}

/// The callee's plaintext port, with what is dialled at `port` redirected to it as the agent's rules do.
async fn plaintext(world: &World, port: u16) {
    use weft_api::node::INBOUND_PLAINTEXT_PORT;
    world::command("nft add table ip t");
    world::command("nft add chain ip t out { type nat hook output priority -100 ; }");
    let rule =
        format!("meta mark 0 ip daddr {CALLEE} tcp dport {port} redirect to :{INBOUND_PLAINTEXT_PORT}");
    world::command(&format!("nft add rule ip t out {rule}"));
    // Redirected in the output hook, the connection arrives at the loopback address.
    let listener = TcpListener::bind(("127.0.0.1", INBOUND_PLAINTEXT_PORT)).await.unwrap();
    let (worker, pod) = (world.worker.clone(), world.callee.clone());
    tokio::task::spawn_local(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            let listener = crate::call::Listener::InboundPlaintext;
            let accepted =
                crate::call::Accepted { pod: pod.clone(), scope: pod.scope.clone(), listener, stream, peer };
            tokio::task::spawn_local(crate::inbound::accept_plaintext(worker.clone(), accepted));
        }
    });
}

#[test]
fn strict_pod_resets_plaintext_callers_and_says_why() {
    world::run(|world| async move {
        world::echo_heads(8080).await;
        plaintext(&world, 8080).await;
        let mut client = TcpStream::connect((CALLEE, 8080)).await.unwrap();
        let error = client.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        world.told(Reason::PlaintextRefused).await;
    });
}

#[test]
fn permissive_pod_serves_plaintext_callers_without_an_identity() {
    world::run_with(weft_model::workload::MtlsMode::Permissive, |world| async move {
        world::echo_heads(8080).await;
        plaintext(&world, 8080).await;
        let mut client = TcpStream::connect((CALLEE, 8080)).await.unwrap();
        let request =
            "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-forwarded-client-cert: URI=admin\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(!answer.contains("forwarded-client-cert"), "{answer}");
        world.told(Reason::Ok).await;
    });
}

/// Runs a program in the test's namespace without blocking the worker.
async fn output(program: &str, arguments: &[&str]) -> String {
    let output =
        tokio::process::Command::new(program).args(arguments).kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// nginx on the callee's 8080 (HTTP/1.1) and 8081 (HTTP/2), serving `/file` of 300,000 bytes.
async fn nginx(folder: &std::path::Path) -> tokio::process::Child {
    std::fs::write(folder.join("file"), vec![b'w'; 300_000]).unwrap();
    let folder = folder.to_str().unwrap();
    let configuration = format!(
        "daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{}} http {{ access_log off;
         client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
         uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; root {folder};
         server {{ listen {CALLEE}:8080; listen {CALLEE}:8081 http2; }} }}"
    );
    let path = format!("{folder}/nginx.conf");
    std::fs::write(&path, configuration).unwrap();
    let child = tokio::process::Command::new("nginx").args(["-c", &path]).kill_on_drop(true).spawn().unwrap();
    while TcpStream::connect((CALLEE, 8081)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    child
}

#[test]
fn curl_and_h2load_reach_nginx_through_the_tunnel() {
    world::run(|world| async move {
        let folder = tempfile::tempdir().unwrap();
        let mut nginx = nginx(folder.path()).await;
        for (version, port, flag) in
            [(HttpVersion::Http1, 8080, "--http1.1"), (HttpVersion::Http2, 8081, "--http2-prior-knowledge")]
        {
            let url = format!("http://{}/file", server(&world, port, version).await);
            let body = output("curl", &["-sSf", flag, &url]).await;
            assert!(body.len() == 300_000 && body.bytes().all(|b| b == b'w'));
        }
        let url = format!("http://{}/file", server(&world, 8081, HttpVersion::Http2).await);
        let report = output("h2load", &["-n", "200", "-c", "1", "-m", "50", &url]).await;
        assert!(report.contains("200 succeeded, 0 failed, 0 errored"), "{report}");
        nginx.kill().await.unwrap();
    });
}

#[test]
fn websocket_over_http2_passes_end_to_end() {
    world::run(|world| async move {
        world::application(8080, |stream, _| async move {
            let mut builder = h2::server::Builder::new();
            let mut connection =
                builder.enable_connect_protocol().handshake::<_, Bytes>(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert_eq!(request.extensions().get::<h2::ext::Protocol>().unwrap().as_str(), "websocket");
                assert_eq!(request.uri().path(), "/chat");
                tokio::task::spawn_local(async move {
                    let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                    let mut body = request.into_body();
                    while let Some(Ok(data)) = body.data().await {
                        send.send_data(data, false).unwrap();
                    }
                    send.send_data(Bytes::new(), true).unwrap();
                });
            }
        })
        .await;
        let stream = TcpStream::connect(server(&world, 8080, HttpVersion::Http2).await).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::task::spawn_local(connection);
        let mut sender = sender.ready().await.unwrap();
        while !sender.is_extended_connect_protocol_enabled() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut request = Request::builder().method("CONNECT").uri("http://cart.shop/chat").body(()).unwrap();
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let (response, mut send) = sender.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut body = response.into_body();
        for message in ["one", "two"] {
            send.send_data(Bytes::from_static(message.as_bytes()), false).unwrap();
            assert_eq!(body.data().await.unwrap().unwrap(), message);
        }
        send.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none_or(|end| end.unwrap().is_empty()));
    });
}
