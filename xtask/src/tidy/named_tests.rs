//! Tests that tables in the documents name: a row that says which test shows it must not outlive the test.

use super::source::line_of;
use std::collections::BTreeSet;

/// Headings of the column that names tests.
const HEADINGS: [&str; 2] = ["test", "tests"];

/// The functions of all files.
#[derive(Debug, Default)]
pub(super) struct Functions(BTreeSet<String>);

impl Functions {
    /// Takes in those of one Rust file.
    pub(super) fn add(&mut self, code: &str) {
        for behind in code.split("fn ").skip(1) {
            let name = behind.split(|it: char| !(it.is_alphanumeric() || it == '_')).next();
            self.0.extend(name.filter(|it| !it.is_empty()).map(str::to_owned));
        }
    }

    /// The names in the last column of tables under one of [`HEADINGS`] that are no function's.
    pub(super) fn check(&self, text: &str, report: &mut impl FnMut(usize, String)) {
        let mut is_named = false;
        let mut at = 0;
        for line in text.lines() {
            let cells: Vec<_> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
            let last = cells.last().filter(|_| line.starts_with('|'));
            is_named = match last {
                Some(cell) => is_named || HEADINGS.contains(cell),
                None => false,
            };
            // Every second piece between backticks is a name.
            let names = last.filter(|_| is_named).into_iter().flat_map(|it| it.split('`').skip(1).step_by(2));
            for name in names.filter(|it| !self.0.contains(it.rsplit(':').next().unwrap_or(it))) {
                report(line_of(text, at), format!("there is no test {name}"));
            }
            at += line.len() + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_function_has_are_reported_with_their_line() {
        let mut functions = Functions::default();
        functions.add("#[test]\nfn it_works() {}\n");
        let text = "| key | | tests |\n|---|---|---|\n| `a` | same | `it_works`, `x::it_works`, `it_broke` |\n\n| a | b |\n| `c` | `d` |\n";
        let mut reported = Vec::new();
        functions.check(text, &mut |line, what| reported.push((line, what)));
        assert_eq!(reported, [(3, "there is no test it_broke".to_owned())]);
    }
}
