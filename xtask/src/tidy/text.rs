//! Rules for single files: what they begin with, how long they are, what must not stand in them.

use super::source::{Source, line_of, words};

/// A file that is longer has more than one purpose.
const MOST_LINES: usize = 600;

/// Rules for every file that people write.
pub(super) fn check(text: &str, report: &mut impl FnMut(usize, String)) {
    // Put together here so that this file keeps the rules.
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    let notes = [concat!("TO", "DO"), concat!("FIX", "ME")];
    for place in places {
        for at in words(text, place).filter(|&at| !text[..at].ends_with(['.', '}', '~', '-'])) {
            report(
                line_of(text, at),
                format!("{place} is a path of one machine; take it from the environment"),
            );
        }
    }
    for note in notes {
        for at in words(text, note) {
            report(line_of(text, at), format!("{note}: do it, or leave it to an issue"));
        }
    }
}

/// Rules for Rust.
pub(super) fn check_rust(source: &Source<'_>, report: &mut impl FnMut(usize, String)) {
    if !source.text.starts_with("//! ") {
        report(1, "begin with `//! `: what is here, and what is not".to_owned());
    }
    let lines = source.text.lines().count();
    // Nobody reads what a generator has made.
    let is_generated = source.text.starts_with("//! Made from `");
    if lines > MOST_LINES && !is_generated {
        report(lines, format!("{lines} lines, {MOST_LINES} are the most: split it by purpose"));
    }
    for (word, remedy) in [
        ("#[ignore", "a test that does not run is no test: make it run, or remove it"),
        ("should_panic", "assert on the error, not on any panic"),
    ] {
        for at in words(&source.code, word) {
            report(line_of(&source.code, at), format!("{word}: {remedy}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<usize> {
        let mut lines = Vec::new();
        check(text, &mut |line, _| lines.push(line));
        check_rust(&Source::new(text), &mut |line, _| lines.push(line));
        lines
    }

    #[test]
    fn each_rule_is_seen_in_its_line() {
        assert_eq!(problems("//! What this is.\nfn f() {}\n"), [0; 0]);
        assert_eq!(problems("fn f() {}\n"), [1]);
        assert_eq!(problems("//! A.\n#[ignore]\nfn f() {}\n"), [2]);
        assert_eq!(problems("//! A.\n#[ignore = \"slow\"]\nfn f() {}\n"), [2]);
        assert_eq!(problems("//! A.\n\n#[should_panic]\nfn f() {}\n"), [3]);
        assert_eq!(problems(concat!("//! A.\n// TO", "DO: later\n")), [2]);
        assert_eq!(problems(concat!("//! A.\nconst P: &str = \"/ro", "ot/x\";\n")), [2]);
        assert_eq!(problems(&format!("//! A.\n{}", "\n".repeat(MOST_LINES))), [MOST_LINES + 1]);
    }

    #[test]
    fn words_that_only_look_alike_are_let_through() {
        assert_eq!(problems("//! A.\n// the ignore list of ./root/ and net/work/ \n"), [0; 0]);
        assert_eq!(problems("//! A.\nconst S: &str = \"#[ignore]\";\n"), [0; 0]);
    }
}
