//! `vm`: a command in a guest with another kernel. The guest sees the host's files, and what it writes is
//! thrown away but what it puts into one shared folder.

mod guest;
mod initramfs;
mod kernel;
mod rung;

pub(crate) use guest::{Job, run as boot};
pub(crate) use kernel::{Kernel, SERIES, Series, kernels, numbers};
pub(crate) use rung::run as run_tests;

use crate::setup;
use anyhow::{Context, Result, bail};
use guest::quoted;
use std::ffi::OsString;
use std::time::Duration;

const USAGE: &str = "usage: cargo xtask vm [--kernel 6.12|6.1] [--deadline SECONDS] COMMAND [ARGUMENT…]";

/// # Errors
/// The guest cannot run the command. A command that fails ends this process with its exit code.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let request = Request::parse(arguments)?;
    setup::guests()?;
    let kernel = request.series.find()?;
    let job = Job { kernel: &kernel, command: &request.command, deadline: request.deadline };
    match boot(job, &mut |line| println!("{line}"))? {
        0 => Ok(()),
        // As if it had run here.
        code => std::process::exit(code),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Request {
    series: Series,
    deadline: Duration,
    /// For bash.
    command: String,
}

impl Request {
    fn parse(arguments: &[OsString]) -> Result<Self> {
        let mut words =
            arguments.iter().map(|it| it.to_str().context("an argument that is not UTF-8")).peekable();
        let [mut series, _] = SERIES;
        let mut deadline = Duration::from_secs(600);
        while let Some(flag) = words.next_if(|it| it.as_ref().is_ok_and(|it| it.starts_with("--"))) {
            let flag = flag?;
            if flag == "--" {
                break;
            }
            let value = words.next().with_context(|| format!("{flag} needs a value\n{USAGE}"))??;
            match flag {
                "--kernel" => {
                    let known = SERIES.into_iter().find(|it| it.0 == value);
                    series = known.with_context(|| format!("--kernel {value}: 6.12 or 6.1\n{USAGE}"))?;
                }
                "--deadline" => {
                    let seconds =
                        value.parse().with_context(|| format!("--deadline {value}: seconds\n{USAGE}"))?;
                    deadline = Duration::from_secs(seconds);
                }
                _ => bail!("unknown flag {flag}\n{USAGE}"),
            }
        }
        let words = words.collect::<Result<Vec<_>>>()?;
        let command = match words[..] {
            [] => bail!("no command\n{USAGE}"),
            // One argument is a line for the shell, as with `sh -c`.
            [line] => line.to_owned(),
            _ => words.iter().map(|it| quoted(it)).collect::<Vec<_>>().join(" "),
        };
        Ok(Self { series, deadline, command })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Request> {
        Request::parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_request_is_read() {
        let request = parse(&["--kernel", "6.1", "--deadline", "9", "uname", "-r s"]).unwrap();
        let command = "'uname' '-r s'".to_owned();
        assert_eq!(request, Request { series: SERIES[1], deadline: Duration::from_secs(9), command });
        assert_eq!(parse(&["uname -r; true"]).unwrap().command, "uname -r; true");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (words, named) in [
            (&["--kernel", "5.4", "true"][..], "--kernel 5.4"),
            (&["--deadline", "soon", "true"], "--deadline soon"),
            (&["--fast", "1", "true"], "--fast"),
            (&["--kernel"], "--kernel needs a value"),
            (&[], "no command"),
        ] {
            let error = format!("{:#}", parse(words).unwrap_err());
            assert!(error.contains(named), "{error}");
        }
    }
}
