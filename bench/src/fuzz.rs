//! What the fuzzers of `fuzz/` do with text that comes from outside, and what the tests do with the text that
//! fuzzers have found: the same functions.

use netplane::nad::fast_path::FastPath;
use netplane::nad::selection;
use netplane::plugins::result::CniResult;
use netplane::plugins::version::Version;

/// The annotation that puts a network on the fast path: taken, or told apart by named problems.
///
/// # Panics
/// It is refused without saying why.
pub fn fast_path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match FastPath::parse(text) {
        Ok(fast_path) => {
            let mut names: Vec<_> = fast_path.sessions.iter().map(|it| &it.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), fast_path.sessions.len(), "two sessions have one name");
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "refused, and nobody knows why");
            assert!(problems.iter().all(|it| !it.message.is_empty()), "{problems:?}");
        }
    }
}

/// A pod's selection of networks: what is taken can be made an interface and a file name of.
///
/// # Panics
/// A selection is taken whose names cannot be used.
pub fn selection(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(selections) = selection::parse(text, "default") else { return };
    for selection in selections {
        let interface = selection.interface.as_deref();
        assert_eq!(interface.and_then(selection::interface_problem), None, "{selection:?}");
        for part in [&selection.network.namespace, &selection.network.name] {
            assert!(!part.is_empty() && !part.contains(['/', '@', ',', '\0']), "{selection:?}");
        }
    }
}

/// A plugin's result: said again in any version, it is read as the same, as far as that version goes.
///
/// # Panics
/// What is written cannot be read, or is something else then.
pub fn result(data: &[u8]) {
    let Ok(value) = serde_json::from_slice(data) else { return };
    for asked in [Version::UNSAID, Version::NEWEST] {
        let Ok(read) = CniResult::from_json(&value, asked) else { continue };
        for version in Version::ALL {
            let said = read.to_json(version);
            let once = CniResult::from_json(&said, version);
            let once = once.unwrap_or_else(|error| panic!("{error:?}: {said}"));
            let again = once.to_json(version);
            let twice = CniResult::from_json(&again, version).map(|it| it.to_json(version));
            assert!(twice.as_ref().is_ok_and(|it| *it == again), "{said}\n{again}\n{twice:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netplane_common::testing::fuzz::replay;

    #[test]
    fn what_the_fuzzers_found_is_read_or_refused() {
        assert!(replay("fast_path", fast_path) >= 10);
        assert!(replay("selection", selection) >= 10);
        assert!(replay("result", result) >= 10);
    }
}
