//! ClientHellos whole, in pieces, too large, and things that are none.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use super::*;

fn hello(name: &str, alpn: Vec<Vec<u8>>, versions: &[&'static SupportedProtocolVersion]) -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(crate::provider::provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn name_and_protocols_are_read_from_tls_1_2_and_1_3() {
    for versions in [[&rustls::version::TLS12], [&rustls::version::TLS13]] {
        let bytes = hello("Shop.Example", vec![b"h2".to_vec(), b"http/1.1".to_vec()], &versions);
        let hello = HelloReader::default().feed(&bytes).unwrap().unwrap();
        assert_eq!(hello.server_name.as_deref(), Some("shop.example"));
        assert_eq!(hello.alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    }
}

#[test]
fn an_address_is_no_name() {
    let hello = HelloReader::default().feed(&hello("10.0.0.1", vec![], &[&rustls::version::TLS13])).unwrap();
    assert_eq!(hello, Some(Hello { server_name: None, alpn: vec![] }));
}

#[test]
fn pieces_of_any_size_give_the_same_answer() {
    let bytes = hello("shop.example", vec![], &[&rustls::version::TLS13]);
    for size in [1, 2, 3, 5, 100, bytes.len() - 1] {
        let mut reader = HelloReader::default();
        let answers: Vec<_> = bytes.chunks(size).map(|piece| reader.feed(piece).unwrap()).collect();
        let (last, before) = answers.split_last().unwrap();
        assert!(before.iter().all(Option::is_none), "{size}");
        assert_eq!(last.as_ref().unwrap().server_name.as_deref(), Some("shop.example"), "{size}");
    }
}

#[test]
fn a_hello_cut_into_records_is_read() {
    let bytes = hello("shop.example", vec![], &[&rustls::version::TLS13]);
    let records = bytes[5..]
        .chunks(50)
        .flat_map(|piece| [&[0x16, 0x03, 0x01, 0x00, u8::try_from(piece.len()).unwrap()], piece].concat());
    let hello = HelloReader::default().feed(&records.collect::<Vec<_>>()).unwrap().unwrap();
    assert_eq!(hello.server_name.as_deref(), Some("shop.example"));
}

#[test]
fn bytes_after_the_hello_do_no_harm() {
    let mut bytes = hello("shop.example", vec![], &[&rustls::version::TLS13]);
    bytes.extend(b"\x14\x03\x03\x00\x01\x01");
    assert!(HelloReader::default().feed(&bytes).unwrap().is_some());
}

#[test]
fn an_endless_hello_is_given_up() {
    let mut reader = HelloReader::new(1000);
    assert_eq!(reader.feed(b"\x16\x03\x01\x40\x00\x01\x00\xff\x00"), Ok(None));
    let mut fed = 9;
    let error = loop {
        match reader.feed(&[0; 100]) {
            Ok(None) => fed += 100,
            Ok(Some(hello)) => panic!("{hello:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!((error, fed), (NoHello::TooLarge(1000), 909));
}

#[test]
fn what_is_no_hello_is_named_so() {
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        b"SSH-2.0-OpenSSH\r\n",
        b"\x17\x03\x03\x00\x01\x00",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        &[0; 100],
    ] {
        let answer = HelloReader::default().feed(bytes);
        assert!(matches!(answer, Err(NoHello::NotTls(_))), "{bytes:?}: {answer:?}");
    }
}

/// Every byte broken in turn, and every length: an answer or an error, never a panic, and no answer before the end.
#[test]
fn broken_and_short_hellos_are_judged_without_panic() {
    let good = hello("shop.example", vec![b"h2".to_vec()], &[&rustls::version::TLS13]);
    for index in 0..good.len() {
        for bits in [0x01, 0x80, 0xff] {
            let mut broken = good.clone();
            broken[index] ^= bits;
            let _ = HelloReader::default().feed(&broken);
        }
        assert_eq!(HelloReader::default().feed(&good[..index]), Ok(None), "{index}");
    }
}
