//! What an API server does to a manifest: parse, refuse unknown fields, fill in defaults, validate; for the kinds
//! that Weft works with. The lab and every reader of a folder of objects stand on this.
//!
//! Start at [`Folder::load`]; [`admit`] is the API server's part for one object.
#![forbid(unsafe_code)]

mod core;
mod folder;
mod kinds;
mod names;
mod object;
mod read;
mod rules;
mod schema;
mod store;
mod watch;

pub use folder::{Folder, Loaded};
pub use kinds::{admit, is_namespaced, known_kinds};
pub use object::{FieldError, Object, Problem, Source};
pub use read::parse;
pub use store::Store;
pub use watch::{Changes, watch};

#[cfg(test)]
mod tests;
