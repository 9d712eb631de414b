//! `weft-proxy`: see the library.
fn main() {}
