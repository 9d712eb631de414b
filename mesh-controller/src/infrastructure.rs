//! What a Gateway's proxies need in the cluster, as a function of the Gateway.

pub mod names;
