//! `weft-cni`: see the library.
fn main() {}
