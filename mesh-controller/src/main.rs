//! `weft-controller`: see the library.
fn main() {}
