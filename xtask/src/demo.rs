//! `demo`: the main job, from a fresh clone to packets in a lab of namespaces.

use crate::{build, privilege, setup};
use anyhow::Result;
use std::ffi::OsString;

pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    privilege::require_root("demo")?;
    setup::lab()?;
    build::release()?;
    crate::become_release("netplane-demo", arguments)
}
