//! `differential`: random packets for the decision on slices and for the programs in the kernel.

use crate::{build, privilege, setup};
use anyhow::Result;
use std::ffi::OsString;

pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    privilege::require_root("differential")?;
    setup::run()?;
    build::release()?;
    crate::become_release("netplane-differential", arguments)
}
