//! `readinessindicatorfile` (Multus): a file that is there when the default network is ready. ADD waits for
//! it with a bound, STATUS says when it is missing, and nothing else depends on it.

use super::error::CniError;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long ADD waits: Multus's value, well below the runtime's own patience.
pub(super) const PATIENCE: Duration = Duration::from_secs(45);

const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Waits until the file is there.
///
/// # Errors
/// It is not after `patience`; the runtime may try again later.
pub(super) fn wait(file: &Path, patience: Duration) -> Result<(), CniError> {
    if !file.exists() {
        tracing::info!(file = %file.display(), "waits for the readiness file");
    }
    let end = Instant::now() + patience;
    while !file.exists() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CniError::not_ready_yet(file, patience));
        }
        std::thread::sleep(BETWEEN_LOOKS.min(left));
    }
    Ok(())
}

/// STATUS.
///
/// # Errors
/// The file is not there now.
pub(super) fn check(file: &Path) -> Result<(), CniError> {
    if file.exists() { Ok(()) } else { Err(CniError::not_ready(file)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::code;

    #[test]
    fn what_never_comes_is_waited_for_with_a_bound() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ready");
        let error = wait(&file, Duration::from_millis(20)).expect_err("never");
        assert_eq!(error.code, code::TRY_AGAIN);
        assert!(error.message.contains("readinessindicatorfile") && error.message.contains("ready"));
        assert_eq!(check(&file).expect_err("missing").code, code::NOT_AVAILABLE);
        std::fs::write(&file, "").expect("a file");
        wait(&file, Duration::ZERO).expect("there");
        check(&file).expect("there");
    }
}
