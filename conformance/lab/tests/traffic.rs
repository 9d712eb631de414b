//! What routes and policies say about several endpoints of one backend: sessions, and budgets of retries.

use weft_conformance::cases::traffic;

#[test]
fn traffic() {
    weft_conformance::place::run(&traffic::topology(), traffic::run);
}
