//! Rules between the rooms of the crate `netplane`: who may import whom, and what has one home only.

use super::source::{Source, line_of, words};

/// The crate's sources.
const SOURCES: &str = "netplane/src/";

/// Plain data of an upper room that a lower one may use.
const EXCEPTION: (&str, &str) = ("dataplane", "world::tables");

/// What may stand in some places only: words, the places below `netplane/src/`, and why.
const HOMES: [(&[&str], &[&str], &str); 6] = [
    (&["aya::", "aya_log::", "aya_obj::"], &["dataplane/"], "the kernel's BPF side has one room"),
    (
        &["rtnetlink::", "netlink_packet_route::", "netlink_packet_core::", "netlink_sys::"],
        &["netlink/"],
        "netlink messages have one room",
    ),
    (
        &["kube::", "k8s_openapi::"],
        &["cluster/", "sources/"],
        "the cluster's API has one room in the plugin, and the agent's watches",
    ),
    (
        &["tokio::spawn", "task::spawn", "tokio::task::spawn"],
        &["agent/"],
        "whoever spawns must also stop it: only the agent does",
    ),
    (
        &["SystemTime::now", "Timestamp::now", "Zoned::now", "Utc::now"],
        &["cni/log_file", "cluster/objects.rs"],
        "the time of day jumps: waits and rates go by Instant, only what people read has a date",
    ),
    (
        &["println!", "eprintln!", "print!", "eprint!"],
        &["cni/mod.rs", "cli/", "main.rs"],
        "stdout is the CNI protocol and stderr is the log: return it, or use tracing",
    ),
];

/// The rooms in the order in which they may import: each the later ones only.
pub(super) struct Rooms(Vec<String>);

impl Rooms {
    /// The order of the `mod` lines of the crate's `lib.rs`.
    pub(super) fn in_order_of(lib: &str) -> Self {
        let modules = lib.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod "));
        Self(modules.filter_map(|rest| rest.strip_suffix(';')).map(str::to_owned).collect())
    }

    pub(super) fn check(&self, path: &str, source: &Source<'_>, report: &mut impl FnMut(usize, String)) {
        let Some(place) = path.strip_prefix(SOURCES) else { return };
        self.check_imports(place, &source.code, report);
        for (things, homes, reason) in HOMES {
            if homes.iter().any(|home| place.starts_with(home)) {
                continue;
            }
            for thing in things {
                for at in words(source.production(), thing) {
                    let only = homes.join(", ");
                    report(line_of(&source.code, at), format!("{thing} belongs into {only} only: {reason}"));
                }
            }
        }
    }

    fn check_imports(&self, place: &str, code: &str, report: &mut impl FnMut(usize, String)) {
        let (room, depth) = module_of(place);
        let Some(own) = self.0.iter().position(|name| name == room) else { return };
        let from_top = "super::".repeat(depth);
        for root in ["crate::", &from_top] {
            for at in words(code, root) {
                for path in first_segments(&code[at + root.len()..]) {
                    let name = path.split("::").next().unwrap_or_default();
                    let Some(other) = self.0.iter().position(|room| room == name) else { continue };
                    let excepted = room == EXCEPTION.0 && path.starts_with(EXCEPTION.1);
                    if other < own && !excepted {
                        let line = line_of(code, at);
                        report(
                            line,
                            format!("{room} imports {name}, which is above it in lib.rs: turn it round"),
                        );
                    }
                }
            }
        }
    }
}

/// The room of a file, and how many modules deep it is: `nad/mod.rs` 1, `nad/dir.rs` 2.
fn module_of(place: &str) -> (&str, usize) {
    let module = place.trim_end_matches(".rs").trim_end_matches("/mod");
    (module.split('/').next().unwrap_or_default(), module.split('/').count())
}

/// The paths that follow `crate::`: one, or those of a `{…}` group.
fn first_segments(rest: &str) -> Vec<&str> {
    let Some(group) = rest.strip_prefix('{') else {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
        return vec![&rest[..end.unwrap_or(rest.len())]];
    };
    let (mut depth, mut start, mut paths) = (0_usize, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match (c, depth) {
            ('{', _) => depth += 1,
            ('}', 1..) => depth -= 1,
            (',' | '}', 0) => {
                paths.push(group[start..at].trim());
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: &str = "//! Rooms.\n\npub mod agent;\npub mod world;\npub mod dataplane;\nmod netlink;\n";

    fn problems(path: &str, text: &str) -> Vec<usize> {
        let mut lines = Vec::new();
        Rooms::in_order_of(LIB).check(path, &Source::new(text), &mut |line, _| lines.push(line));
        lines
    }

    #[test]
    fn imports_point_downwards() {
        for (path, text, wrong) in [
            ("netplane/src/agent/mod.rs", "use crate::netlink::link;\nuse crate::world::World;", &[][..]),
            ("netplane/src/netlink/mod.rs", "use std::io;\nuse crate::world::World;", &[2]),
            ("netplane/src/netlink/link.rs", "fn f() { crate::agent::run() }", &[1]),
            ("netplane/src/netlink/link.rs", "use super::super::agent::run;", &[1]),
            ("netplane/src/netlink/link.rs", "use super::agent;", &[]),
            ("netplane/src/world/mod.rs", "use crate::{netlink::link, agent::{A, B}, world::C};", &[1]),
            ("netplane/src/world/mod.rs", "use crate::{dataplane::{A, B}, netlink};", &[]),
            ("netplane/src/dataplane/mod.rs", "use crate::world::tables::Tables;", &[]),
            ("netplane/src/dataplane/mod.rs", "use crate::world::World;", &[1]),
            ("netplane/src/main.rs", "use crate::agent;", &[]),
            ("netplane-common/src/lib.rs", "use crate::agent;", &[]),
        ] {
            assert_eq!(problems(path, text), wrong, "{path}: {text}");
        }
    }

    #[test]
    fn some_things_have_one_home() {
        for (path, text, wrong) in [
            ("netplane/src/dataplane/bpf.rs", "use aya::Ebpf;", &[][..]),
            ("netplane/src/agent/mod.rs", "use aya::Ebpf;\nuse netlink_packet_route::x;", &[1, 2]),
            ("netplane/src/agent/mod.rs", "tokio::spawn(f());", &[]),
            ("netplane/src/netlink/mod.rs", "tokio::spawn(f());", &[1]),
            ("netplane/src/agent/mod.rs", "let now = SystemTime::now();", &[1]),
            ("netplane/src/cluster/objects.rs", "let now = Timestamp::now();", &[]),
            ("netplane/src/cluster/api.rs", "use kube::Client;", &[]),
            ("netplane/src/cni/networks.rs", "use kube::Client;", &[1]),
            ("netplane/src/netlink/mod.rs", "a();\n#[cfg(test)]\nmod tests {\ntokio::spawn(f());\n}", &[]),
            ("netplane/src/netlink/mod.rs", "// println!\nprintln!(\"aya::\");", &[2]),
            ("netplane/src/cli/status.rs", "println!();", &[]),
            ("xtask/src/main.rs", "println!();", &[]),
        ] {
            assert_eq!(problems(path, text), wrong, "{path}: {text}");
        }
    }
}
