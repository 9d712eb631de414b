//! Fixtures for tests: a lab that goes away with the test, whatever becomes of it; and a small API server in process.
#![forbid(unsafe_code)]

pub mod apiserver;
mod lab;

pub use lab::{Lab, Options, Output};
