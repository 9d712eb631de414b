//! `weft-cni`: the CNI plugin; see the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = weft_cni::plugin::run(|name| std::env::var(name).ok(), &mut std::io::stdin());
    if !outcome.printed.is_empty() {
        println!("{}", outcome.printed);
    }
    if outcome.success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
