//! `soak`: mixed traffic for minutes, with restarts and changing neighbours, and an account of every packet.

use crate::{build, privilege, setup};
use anyhow::Result;
use std::ffi::OsString;

pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    privilege::require_root("soak")?;
    setup::lab()?;
    build::release()?;
    crate::become_release("netplane-soak", arguments)
}
