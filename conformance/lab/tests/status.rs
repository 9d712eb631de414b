//! What routes say about their parents: every state that a Service parent can be in.

use weft_conformance::cases::status;

#[test]
fn status() {
    weft_conformance::place::run(&status::topology(), status::run);
}
