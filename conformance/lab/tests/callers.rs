//! Callers' addresses, pods that call themselves in every protocol, callers outside the mesh.

use weft_conformance::cases::callers;

#[test]
fn callers() {
    weft_conformance::place::run(&callers::topology(), callers::run);
}
