//! The one binary: a CNI plugin when `CNI_COMMAND` is set, else the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_some() { netplane::cni::run() } else { netplane::cli::run() }
}
