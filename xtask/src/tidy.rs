//! `tidy`: placeholder until the next commit.
pub(crate) fn run() -> anyhow::Result<()> {
    Ok(())
}
