//! Fixtures for tests: a lab that goes away with the test, whatever becomes of it.
#![forbid(unsafe_code)]

mod lab;

pub use lab::{Lab, Options, Output};
