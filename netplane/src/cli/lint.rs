//! `netplane lint`: every problem of NAD files, each with its place.

use crate::nad::Nad;
use crate::nad::dir::{Loaded, load_file};
use crate::nad::fast_path::{FAST_PATH_ANNOTATION, FastPath};
use anyhow::{Result, bail};
use std::path::PathBuf;

#[expect(clippy::print_stdout, reason = "the findings are what this command is for")]
pub(super) fn run(files: &[PathBuf]) -> Result<()> {
    let mut loaded = Loaded::default();
    files.iter().for_each(|it| load_file(it, &mut loaded));
    let mut findings: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
    for (path, nad) in &loaded.nads {
        findings
            .extend(check(nad).into_iter().map(|it| format!("{}: NAD {}: {it}", path.display(), nad.name)));
    }
    findings.iter().for_each(|it| println!("{it}"));
    match findings.len() {
        0 => {
            println!("{} NADs in {} files: no problems", loaded.nads.len(), files.len());
            Ok(())
        }
        count => bail!("{count} problems"),
    }
}

fn check(nad: &Nad) -> Vec<String> {
    let mut findings = Vec::new();
    let config = nad.config.trim();
    if !config.is_empty()
        && serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(config).is_err()
    {
        findings.push("spec.config: is not a JSON object".to_owned());
    }
    if let Some(annotation) = nad.annotations.get(FAST_PATH_ANNOTATION) {
        let problems = FastPath::parse(annotation).err().unwrap_or_default();
        findings.extend(problems.iter().map(|it| format!("{FAST_PATH_ANNOTATION}: {it}")));
    }
    findings
}
