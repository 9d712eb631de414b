//! The config stream as state machines without I/O: what a controller sends to one proxy, what a proxy holds.
