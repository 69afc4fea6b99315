//! `bench`: the benchmarks, all or one part.

use crate::{build, privilege, setup};
use anyhow::Result;
use std::ffi::OsString;

pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    privilege::require_root("bench")?;
    setup::lab()?;
    build::release()?;
    crate::become_release("netplane-bench", arguments)
}
