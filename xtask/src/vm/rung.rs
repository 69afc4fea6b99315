//! The tests in guests: binaries that were built here, run under other kernels.

use super::{Job, SERIES, Series, boot, quoted};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use xtask::process::shown;
use xtask::root;

/// On two busy processors a guest takes two minutes.
const DEADLINE: Duration = Duration::from_secs(600);

/// Of the tests that run here too: the verifier, and every case of the packet path.
const EVERYWHERE: [&str; 1] = ["cases_bpf::every_case"];

/// Builds the test binaries and runs them in a guest of each series; `say` gets each line of their output.
///
/// # Errors
/// A guest does not come up, or a test fails in it.
pub(crate) fn run(say: &mut dyn FnMut(&str)) -> Result<()> {
    let kernels = SERIES.map(Series::find).into_iter().collect::<Result<Vec<_>>>()?;
    let binaries = build()?;
    let mut failed = Vec::new();
    for kernel in kernels {
        say(&format!("test: in a guest with kernel {}", kernel.release));
        let command = command(&binaries);
        if boot(Job { kernel: &kernel, command: &command, deadline: DEADLINE }, say)? != 0 {
            failed.push(kernel.release);
        }
    }
    if !failed.is_empty() {
        bail!("tests failed under kernel {}; to repeat: cargo xtask test vm", failed.join(" and "));
    }
    Ok(())
}

struct Binaries {
    /// Tests that run here too.
    it: PathBuf,
    /// Tests for guests only.
    vm: PathBuf,
}

fn command(binaries: &Binaries) -> String {
    let package = root().join("netplane");
    let [package, it, vm] =
        [&package, &binaries.it, &binaries.vm].map(|it| quoted(&it.display().to_string()));
    // As Cargo runs them: in the package's folder.
    format!("cd {package} || exit 1\n{it} {}; first=$?\n{vm} && exit $first", EVERYWHERE.join(" "))
}

fn build() -> Result<Binaries> {
    let mut cargo = crate::cargo();
    // Without `--package`, so that nothing is built in another way than for the other tests.
    cargo.args(["test", "--locked", "--no-run", "--test", "it", "--test", "vm"]);
    cargo.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    let output = cargo.output().with_context(|| format!("start `{}`", shown(&cargo)))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", shown(&cargo), output.status);
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let find =
        |name| executable(&messages, name).with_context(|| format!("Cargo built no test binary {name}"));
    Ok(Binaries { it: find("it")?, vm: find("vm")? })
}

/// The executable of netplane's test target `name` in Cargo's messages, one JSON object a line.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let source = format!("/netplane/tests/{name}/main.rs\"");
    let artifact = messages.lines().find(|it| it.contains(&source) && !it.contains("\"executable\":null"))?;
    let (path, _) = artifact.split_once("\"executable\":\"")?.1.split_once('"')?;
    Some(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_of_a_target_is_found() {
        let message = |package: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"src_path":"/x/{package}/tests/it/main.rs"}},"executable":{executable}}}"#
            )
        };
        let messages = [message("bench", "\"/t/a\""), message("netplane", "\"/t/b\"")].join("\n");
        assert_eq!(executable(&messages, "it"), Some("/t/b".into()));
        assert_eq!(executable(&messages, "vm"), None);
    }

    #[test]
    fn a_failure_of_either_binary_is_the_guests() {
        let binaries = Binaries { it: "/t/it".into(), vm: "/t/vm".into() };
        let text = command(&binaries);
        assert!(text.contains("first=$?") && text.ends_with("&& exit $first"), "{text}");
    }
}
