//! Requests that an authorization server decides about, on a Service, at a Gateway and at a listener.

use weft_conformance::cases::external_auth;

#[test]
fn external_auth() {
    weft_conformance::place::run(&external_auth::topology(), external_auth::run);
}
