//! HTTPRoute: matches, filters, mirrors, CORS, timeouts and retries, as an application and its caller see them.

use weft_conformance::cases::httproute;

#[test]
fn httproute() {
    weft_conformance::place::run(&httproute::topology(), httproute::run);
}
