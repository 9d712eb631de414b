//! The proxy's end of the config stream.
