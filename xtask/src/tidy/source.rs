//! A Rust file as the rules see it: the text, and the code without comments and without what is inside
//! string literals, so that a rule about code does not trip over prose.

/// Byte for byte as long as the text; what is not code is blank, line ends stay.
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    pub(super) code: String,
}

impl<'a> Source<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, code: blanked(text) }
    }

    /// The code up to the file's unit tests.
    pub(super) fn production(&self) -> &str {
        self.code.find("#[cfg(test)]\nmod ").map_or(&self.code, |end| &self.code[..end])
    }
}

/// 1-based, for people.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

/// Where `word` stands in `code`, not as part of a longer identifier.
pub(super) fn words<'c>(code: &'c str, word: &'c str) -> impl Iterator<Item = usize> + 'c {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let ends_open = word.ends_with(part);
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !(before.is_some_and(part) || ends_open && after.is_some_and(part))
    })
}

fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = end_of_prose(bytes, at);
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    // Blanks replace whole comments and literals, which begin and end at characters' bounds.
    String::from_utf8(out).expect("only whole characters are blanked")
}

/// Where the comment or literal that begins at `at` ends; `at` itself where none begins.
fn end_of_prose(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let inside_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => at + end_of_block_comment(rest),
        [b'"', ..] => at + end_of_string(rest),
        [b'r', b'"' | b'#', ..] if !inside_word || bytes[at - 1] == b'b' => at + end_of_raw_string(rest),
        // A character, which is not a lifetime: quotes at both ends.
        [b'\'', b'\\', ..] => at + 2 + rest[3..].iter().position(|&b| b == b'\'').map_or(0, |end| end + 2),
        [b'\'', _, b'\'', ..] => at + 3,
        _ => at,
    }
}

fn end_of_block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

fn end_of_string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`; 0 for a raw identifier such as `r#type`.
fn end_of_raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&b| b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let closing = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let body = &rest[2 + hashes..];
    let end = body.windows(closing.len()).position(|window| window == closing);
    end.map_or(rest.len(), |end| 2 + hashes + end + closing.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_blank_and_code_stays() {
        for (text, code) in [
            ("a(); // b\nc", "a();     \nc"),
            ("/* a /* b */ c */ d", "                  d"),
            (r#"f("a\"b") + g"#, "f(      ) + g"),
            (r##"f(r#"a"b"#) + g"##, "f(        ) + g"),
            ("m('\"', '\\'', x) 'a: loop", "m(   ,     , x) 'a: loop"),
            ("r#type", "r#type"),
        ] {
            assert_eq!(blanked(text), code, "{text}");
        }
    }

    #[test]
    fn a_word_is_not_found_in_a_longer_one() {
        assert_eq!(words("aya::x maya::y ::aya::z", "aya::").collect::<Vec<_>>(), [0, 17]);
        assert_eq!(words("ignored ignore", "ignore").collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn unit_tests_are_not_production() {
        let source = Source::new("a();\n#[cfg(test)]\nmod tests { b() }");
        assert_eq!(source.production(), "a();\n");
    }
}
