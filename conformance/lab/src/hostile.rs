//! Bytes that no honest client sends: HTTP/1 that two readers could read in two ways, and frames of HTTP/2.

/// Heads and bodies that two readers could take for different requests (RFC 9112 §6.3, §11.2) or that are no HTTP.
pub const SMUGGLING: &[(&str, &[u8])] = &[
    ("length and chunked", b"POST / HTTP/1.1\r\nHost: v2\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG"),
    ("two lengths", b"POST / HTTP/1.1\r\nHost: v2\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    ("a list of lengths", b"POST / HTTP/1.1\r\nHost: v2\r\nContent-Length: 5, 6\r\n\r\nhello!"),
    ("a signed length", b"POST / HTTP/1.1\r\nHost: v2\r\nContent-Length: +5\r\n\r\nhello"),
    ("a negative length", b"POST / HTTP/1.1\r\nHost: v2\r\nContent-Length: -1\r\n\r\nhello"),
    ("a hexadecimal length", b"POST / HTTP/1.1\r\nHost: v2\r\nContent-Length: 0x5\r\n\r\nhello"),
    ("an empty length", b"POST / HTTP/1.1\r\nHost: v2\r\nContent-Length:\r\n\r\nhello"),
    ("a length beyond all bounds", b"POST / HTTP/1.1\r\nHost: v2\r\nContent-Length: 99999999999999999999999\r\n\r\nhello"),
    ("an unknown coding", b"POST / HTTP/1.1\r\nHost: v2\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("chunked not last", b"POST / HTTP/1.1\r\nHost: v2\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("chunked twice", b"POST / HTTP/1.1\r\nHost: v2\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a vertical tab before chunked", b"POST / HTTP/1.1\r\nHost: v2\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    ("a space before the colon", b"POST / HTTP/1.1\r\nHost: v2\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("a folded field", b"POST / HTTP/1.1\r\nHost: v2\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("chunked in HTTP/1.0", b"POST / HTTP/1.0\r\nHost: v2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a space in a field's name", b"GET / HTTP/1.1\r\nHost: v2\r\nX Y: z\r\n\r\n"),
    ("a NUL in a field's value", b"GET / HTTP/1.1\r\nHost: v2\r\nX: a\0b\r\n\r\n"),
    ("a lone CR in a field's value", b"GET / HTTP/1.1\r\nHost: v2\r\nX: a\rY: b\r\n\r\n"),
    ("a field before the request line", b" X: a\r\nGET / HTTP/1.1\r\nHost: v2\r\n\r\n"),
    ("two hosts", b"GET / HTTP/1.1\r\nHost: v2\r\nHost: v1\r\n\r\n"),
    ("no host", b"GET / HTTP/1.1\r\nX: a\r\n\r\n"),
    ("a space in the target", b"GET /a b HTTP/1.1\r\nHost: v2\r\n\r\n"),
    ("an unknown version", b"GET / HTTP/9.9\r\nHost: v2\r\n\r\n"),
];

/// What a client of HTTP/2 begins with, and its empty SETTINGS.
#[must_use]
pub fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat()
}

/// DATA.
pub const DATA: u8 = 0;
/// HEADERS.
pub const HEADERS: u8 = 1;
/// RST_STREAM.
pub const RST_STREAM: u8 = 3;
/// SETTINGS.
pub const SETTINGS: u8 = 4;
/// PING.
pub const PING: u8 = 6;
/// GOAWAY.
pub const GOAWAY: u8 = 7;
/// CONTINUATION.
pub const CONTINUATION: u8 = 9;
/// The flag END_STREAM.
pub const END_STREAM: u8 = 1;
/// The flag END_HEADERS.
pub const END_HEADERS: u8 = 4;

/// One frame (RFC 9113 §4.1).
///
/// # Panics
/// When the payload is larger than any frame.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that is written out (RFC 7541 §6.2.2).
///
/// # Panics
/// When name or value have more than 126 bytes.
#[must_use]
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        assert!(text.len() < 127);
        [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
    };
    [vec![0], text(name), text(value)].concat()
}

/// The pseudo-fields of a request.
#[must_use]
pub fn request(method: &str, path: &str) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "http"), (":authority", "front.example"), (":path", path)];
    fields.map(|(name, value)| field(name, value)).concat()
}
