//! What the server lets through, from raw bytes.

use std::time::Duration;

use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::guard::Scanner;
use super::*;

/// What the client reads, what the handler saw (method, path, body), and how the connection ended.
async fn exchange(raw: &[u8]) -> (String, Vec<String>, Result<(), Ended>) {
    let local = tokio::task::LocalSet::new();
    let raw = raw.to_vec();
    local
        .run_until(async move {
            let (mut client, server) = tokio::io::duplex(1 << 20);
            let seen = Rc::new(RefCell::new(Vec::new()));
            let log = seen.clone();
            let handler = move |request: Box<Request<Body>>| {
                let log = log.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.map(|b| b.to_bytes().to_vec());
                    let body = body
                        .map_or_else(|_| "broken".to_owned(), |b| String::from_utf8_lossy(&b).into_owned());
                    log.borrow_mut().push(format!("{} {} {body}", parts.method, parts.uri));
                    Response::new(Body::text("ok"))
                }
            };
            let limits = Limits { header_timeout: Duration::from_millis(300), ..Limits::default() };
            let served = tokio::task::spawn_local(async move {
                serve(server, HttpVersion::Http1, &limits, std::future::pending(), handler).await
            });
            client.write_all(&raw).await.unwrap();
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer).await;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            let seen = seen.take();
            (answer, seen, served.await.unwrap())
        })
        .await
}

#[tokio::test]
async fn ordinary_requests_pass_also_pipelined() {
    let raw = b"\r\nGET /a HTTP/1.1\r\nhost: x\r\n\r\n\
        POST /b HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello\
        POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ntrailer: t\r\n\r\n\
        5;ext=1\r\nwo\nld\r\n0\r\nt: 1\r\n\r\n\
        GET /d HTTP/1.0\r\n\r\n";
    let (answer, seen, _) = exchange(raw).await;
    assert_eq!(seen, ["GET /a ", "POST /b hello", "POST /c wo\nld", "GET /d "], "{answer}");
    assert_eq!(answer.matches(" 200 OK").count(), 4, "{answer}");
}

#[tokio::test]
async fn requests_that_can_be_read_in_two_ways_are_refused_with_a_reason() {
    for raw in [
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: +4\r\n\r\nhell",
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4, 4\r\n\r\nhell",
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0x4\r\n\r\nhell",
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\na: b\r\n folded: c\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\nhost: x\n\n",
        "GET / HTTP/1.1\r\nhost: x\r\na: b\ncontent-length: 5\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\na: b\rc: d\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\na\0b: c\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a@b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
        "GET /a b HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET / HTTP/9.1\r\nhost: x\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00",
    ] {
        let (answer, seen, ended) = exchange(raw.as_bytes()).await;
        assert!(seen.is_empty(), "{raw:?} reached the handler: {seen:?}");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{raw:?}: {answer}");
        assert_eq!(ended.as_ref().map_err(|e| e.reason), Err(Reason::BadRequest), "{raw:?}: {ended:?}");
    }
}

#[tokio::test]
async fn nothing_is_read_behind_an_upgrade_that_was_declined() {
    let raw = "GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n\
               GET /smuggled HTTP/1.1\nhost: x\n\n";
    let (answer, seen, _) = exchange(raw.as_bytes()).await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(answer.contains("connection: close") && answer.matches("HTTP/1.1 ").count() == 1, "{answer}");
}

#[tokio::test]
async fn chunks_that_do_not_add_up_end_the_body_with_an_error() {
    for chunks in [
        "-1\r\nx",
        "\r\n",
        "g\r\n",
        "1\nx\r\n0\r\n\r\n",
        "1\r\nxy\r\n0\r\n\r\n",
        "10000000000000000\r\n",
        "0x1\r\nx\r\n",
    ] {
        let raw = format!("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
        let (answer, seen, ended) = exchange(raw.as_bytes()).await;
        assert!(seen.iter().all(|s| s == "POST / broken"), "{chunks:?}: {seen:?} {answer}");
        assert_eq!(ended.as_ref().map_err(|e| e.reason), Err(Reason::BadRequest), "{chunks:?}: {ended:?}");
    }
}

#[tokio::test]
async fn too_many_or_too_large_headers_are_431() {
    let many: String = (0..200).map(|i| format!("h{i}: v\r\n")).collect();
    let large = format!("a: {}\r\n", "v".repeat(70 * 1024));
    for headers in [many, large] {
        let raw = format!("GET / HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        let (answer, seen, ended) = exchange(raw.as_bytes()).await;
        assert!(seen.is_empty() && answer.starts_with("HTTP/1.1 431 "), "{seen:?} {answer}");
        assert_eq!(ended.map_err(|e| e.reason), Err(Reason::HeadersTooLarge));
    }
}

#[test]
fn scanner_finds_the_same_however_the_bytes_are_cut() {
    for raw in [
        &b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabcGET / HTTP/1.1\nhost: x\r\n\r\n"[..],
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nt: 1\r\n\r\nGET / HTTP/1.1\r\n x\r\n",
        b"GET /chat HTTP/1.1\r\nupgrade: websocket\r\n\r\nanything\nat all",
    ] {
        let whole = Scanner::new(1000).scan(raw);
        for cut in 1..8 {
            let mut scanner = Scanner::new(1000);
            let mut found = Ok(());
            for (index, piece) in raw.chunks(cut).enumerate() {
                found = found.and_then(|()| scanner.scan(piece).map_err(|(at, why)| (index * cut + at, why)));
            }
            assert_eq!(found, whole, "cut {cut}");
        }
    }
}
