//! The cases: each module has a `topology` and a `run` with the sentences that must hold in it.

pub mod gamma;
pub mod grpcroute;
pub mod httproute;
pub mod streams;
