//! Byte streams: TLSRoute by server name, TCPRoute by weight, servers that speak first, half-close and reset.

use weft_conformance::cases::streams;

#[test]
fn streams() {
    weft_conformance::place::run(&streams::topology(), streams::run);
}
