//! XBackends that select pods, as backends of one and the same route on a Service and at a Gateway.

use weft_conformance::cases::xbackend;

#[test]
fn xbackend() {
    weft_conformance::place::run(&xbackend::topology(), xbackend::run);
}
