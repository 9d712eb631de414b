//! Routes attached to Services (GAMMA): whose route counts, for which port, and what happens when there is none.

use weft_conformance::cases::gamma;

#[test]
fn gamma() {
    weft_conformance::place::run(&gamma::topology(), gamma::run);
}
