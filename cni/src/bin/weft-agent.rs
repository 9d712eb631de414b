//! `weft-agent`: see the library.
fn main() {}
