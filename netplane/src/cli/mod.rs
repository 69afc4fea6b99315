//! What a person calls: arguments in, text or JSON out.

use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Logs go to stderr: stdout is the CNI protocol's, and `--json`'s. `RUST_LOG` overrides `default`.
pub fn log_to_stderr(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// Runs the command line.
pub fn run() -> ExitCode {
    ExitCode::FAILURE
}
