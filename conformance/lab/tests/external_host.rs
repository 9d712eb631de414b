//! XBackends that name a host outside the cluster, as backends of one and the same route on a Service and at a Gateway.

use weft_conformance::cases::external_host;

#[test]
fn external_host() {
    weft_conformance::place::run(&external_host::topology(), external_host::run);
}
