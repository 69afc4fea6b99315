//! `tidy`: the rules of the tree that no compiler checks. CONTRIBUTING.md lists them.

mod named_tests;
mod rooms;
mod source;
mod text;

use anyhow::{Context, Result, bail};
use named_tests::Functions;
use rooms::Rooms;
use source::Source;
use std::fs;
use std::path::{Path, PathBuf};
use xtask::root;

/// # Errors
/// The rules that are broken, each with file, line and what would be right.
pub(crate) fn run() -> Result<()> {
    let (files, problems) = check(root())?;
    if problems.is_empty() {
        println!("tidy: {files} files keep the rules");
        return Ok(());
    }
    bail!("{} rules are broken:\n{}", problems.len(), problems.join("\n"));
}

/// How many files there are under `top`, and what is wrong with them.
fn check(top: &Path) -> Result<(usize, Vec<String>)> {
    let order = top.join("netplane/src/lib.rs");
    let order = fs::read_to_string(&order).with_context(|| format!("read {}", order.display()))?;
    let rooms = Rooms::in_order_of(&order);
    let mut files = Vec::new();
    list(top, &mut files)?;
    files.sort();
    let mut problems = Vec::new();
    let mut functions = Functions::default();
    for file in files.iter().filter(|it| it.extension().is_some_and(|it| it == "rs")) {
        functions.add(&fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?);
    }
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let path = file.strip_prefix(top).unwrap_or(file).to_string_lossy().into_owned();
        let mut report = |line: usize, what: String| problems.push(format!("{path}:{line}: {what}"));
        text::check(&text, &mut report);
        if path.ends_with(".rs") {
            let source = Source::new(&text);
            text::check_rust(&source, &mut report);
            rooms.check(&path, &source, &mut report);
        } else if path.ends_with(".md") {
            functions.check(&text, &mut report);
        }
    }
    Ok((files.len(), problems))
}

/// The files that people write, without what is built, fetched or kept by git.
fn list(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    const ENDINGS: [&str; 8] = ["rs", "toml", "md", "yaml", "yml", "json", "sh", "py"];
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry.with_context(|| format!("read {}", dir.display()))?;
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().with_context(|| format!("look at {}", path.display()))?;
        if kind.is_dir() {
            if name != "target" && name != ".git" {
                list(&path, files)?;
            }
        } else if kind.is_file() {
            let ending = path.extension().and_then(|ending| ending.to_str());
            // `.ci/run` has no ending.
            if ending.is_some_and(|ending| ENDINGS.contains(&ending)) || path.ends_with(".ci/run") {
                files.push(path);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_is_tidy() {
        let (files, problems) = check(root()).expect("the tree can be read");
        assert!(files > 30, "only {files} files found");
        assert!(problems.is_empty(), "\n{}", problems.join("\n"));
    }
}
