//! Headers of both versions, whole, in parts and wrong.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
    [V2, &[command, family], &length, addresses].concat()
}

fn four() -> Vec<u8> {
    [&[192, 0, 2, 7, 10, 0, 0, 1][..], &4321_u16.to_be_bytes(), &80_u16.to_be_bytes()].concat()
}

fn source(bytes: &[u8]) -> Option<String> {
    let header = parse(bytes).unwrap().expect("a whole header");
    assert_eq!(header.length, bytes.len());
    header.source.map(|source| source.to_string())
}

#[test]
fn both_versions_name_the_client_in_both_families() {
    let named = |bytes: &[u8]| source(bytes).unwrap();
    assert_eq!(named(b"PROXY TCP4 192.0.2.7 10.0.0.1 4321 80\r\n"), "192.0.2.7:4321");
    assert_eq!(named(b"PROXY TCP6 2001:db8::7 fd00::1 4321 443\r\n"), "[2001:db8::7]:4321");
    assert_eq!(named(&v2(0x21, 0x11, &four())), "192.0.2.7:4321");
    let addresses = ["2001:db8::7", "fd00::1"].map(|a| a.parse::<Ipv6Addr>().unwrap().octets()).concat();
    let six = [&addresses[..], &4321_u16.to_be_bytes(), &443_u16.to_be_bytes()].concat();
    assert_eq!(named(&v2(0x21, 0x21, &six)), "[2001:db8::7]:4321");
    // With a TLV behind the addresses.
    assert_eq!(named(&v2(0x21, 0x11, &[four(), vec![3, 0, 1, 9]].concat())), "192.0.2.7:4321");
}

#[test]
fn a_load_balancer_may_speak_for_itself() {
    assert_eq!(source(b"PROXY UNKNOWN\r\n"), None);
    assert_eq!(source(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), None);
    assert_eq!(source(&v2(0x20, 0x00, &[])), None);
    assert_eq!(source(&v2(0x20, 0x11, &four())), None);
    assert_eq!(source(&v2(0x21, 0x00, &[1, 2])), None);
}

#[test]
fn a_part_of_a_header_waits_for_the_rest() {
    for whole in [b"PROXY TCP4 192.0.2.7 10.0.0.1 4321 80\r\n".to_vec(), v2(0x21, 0x11, &four())] {
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), Ok(None), "{length}");
        }
        let header = parse(&[&whole[..], b"GET / HTTP/1.1"].concat()).unwrap().unwrap();
        assert_eq!(header.length, whole.len());
    }
}

#[test]
fn anything_else_is_refused() {
    let long = [b"PROXY UNKNOWN ".to_vec(), vec![b'a'; V1_MOST]].concat();
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        &[22, 3, 1],
        b"PROXY TCP4 192.0.2.7 10.0.0.1 4321\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 4321 80 1\r\n",
        b"PROXY TCP4 192.0.2.7  10.0.0.1 4321 80\r\n",
        b"PROXY TCP4 2001:db8::7 10.0.0.1 4321 80\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 04321 80\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 +4321 80\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 65536 80\r\n",
        b"PROXY UDP4 192.0.2.7 10.0.0.1 4321 80\r\n",
        b"PROXY \xff\r\n",
        &long,
        &v2(0x21, 0x11, &[1, 2, 3]),
        &v2(0x21, 0x12, &four()),
        &v2(0x22, 0x11, &four()),
        &v2(0x11, 0x11, &four()),
        &v2(0x21, 0x11, &[0; 5000]),
    ] {
        assert!(parse(bytes).is_err(), "{bytes:?}");
    }
}

#[tokio::test]
async fn nothing_behind_the_header_is_taken() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let writing = tokio::spawn(async move {
        for part in [&b"PROXY TCP4 192.0.2.7 "[..], b"10.0.0.1 4321 80\r\nfirst ", b"second"] {
            client.write_all(part).await.unwrap();
            client.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let source = take(&mut server).await.unwrap();
    assert_eq!(source.unwrap().to_string(), "192.0.2.7:4321");
    writing.await.unwrap();
    let mut rest = String::new();
    server.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "first second");
}
