//! `codegen`: the session API's code, from its protobuf file. The generator is in a test, so that no build waits
//! for it.

use anyhow::Result;
use xtask::process::run as execute;

pub(crate) fn run() -> Result<()> {
    let mut cargo = crate::cargo();
    cargo.args(["test", "--quiet", "-p", "xtask", "--test", "codegen"]);
    execute(cargo.env("NETPLANE_CODEGEN", "1"))
}
