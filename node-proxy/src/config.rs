//! The proxy's command line and environment: one struct, no other place reads either.

/// The process's configuration.
#[derive(Debug, clap::Parser)]
pub struct Config {
    /// Name of the node this proxy runs on.
    #[arg(long, env = "WEFT_NODE")]
    pub node: String,
}
