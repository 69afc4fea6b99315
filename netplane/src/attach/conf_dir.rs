//! Files of a CNI configuration directory: by name, the first one, and the plugins that lie in a
//! subdirectory named after their network. Reads only.

use super::AttachError;
use serde_json::{Map, Value, json};
use std::io;
use std::path::{Path, PathBuf};

/// The configuration whose `name` is `name`; lists before single plugins (NPWG standard §3.4.1). Files that
/// are no JSON are passed over: they may be somebody else's.
pub(super) fn named(dir: &Path, name: &str) -> Result<Option<String>, AttachError> {
    let mut paths = files(dir, &["conflist", "conf", "json"]);
    paths.sort_by_key(|path| !is_list(path));
    for path in paths {
        let text = std::fs::read_to_string(&path);
        let config = text.ok().and_then(|it| serde_json::from_str::<Map<_, _>>(&it).ok());
        match config {
            Some(config) if config.get("name").and_then(Value::as_str) == Some(name) => {
                return with_chain(config, dir).map(Some);
            }
            Some(_) => {}
            None => tracing::debug!(path = %path.display(), "passed over: no JSON object"),
        }
    }
    Ok(None)
}

/// The first configuration by file name.
pub(super) fn first(dir: &Path) -> Result<Option<String>, AttachError> {
    files(dir, &["conf", "conflist", "json"]).first().map(|path| file(path)).transpose()
}

/// A file's configuration.
///
/// # Errors
/// It cannot be read, or is no JSON object.
pub(super) fn file(path: &Path) -> Result<String, AttachError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    with_chain(read(path)?, dir)
}

/// The plugins in the `*.conf` files of `dir/name`, by file name. None if there is no such folder.
///
/// # Errors
/// One of them cannot be read, is no JSON object, or has no `type`.
pub(super) fn chain(dir: &Path, name: &str) -> Result<Vec<Value>, AttachError> {
    let mut plugins = Vec::new();
    for path in files(&dir.join(name), &["conf"]) {
        let plugin = read(&path)?;
        if plugin.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
            let source = io::Error::other("it has no \"type\": which plugin?");
            return Err(AttachError::File { operation: "use", path, source });
        }
        plugins.push(Value::Object(plugin));
    }
    Ok(plugins)
}

/// A list takes the plugins of the folder with its name behind its own, unless `loadOnlyInlinedPlugins`
/// (CNI specification 1.1.0, section 1, as libcni does it since 1.3).
fn with_chain(mut config: Map<String, Value>, dir: &Path) -> Result<String, AttachError> {
    let name = config.get("name").and_then(Value::as_str).filter(|it| is_network_name(it));
    let only_inlined = config.get("loadOnlyInlinedPlugins") == Some(&json!(true));
    if let Some(name) = name
        && config.get("type").is_none()
        && !only_inlined
    {
        let more = chain(dir, name)?;
        if !more.is_empty()
            && let Some(plugins) = config.entry("plugins").or_insert_with(|| json!([])).as_array_mut()
        {
            plugins.extend(more);
        }
    }
    Ok(Value::Object(config).to_string())
}

/// CNI specification, section 1: a network's name, which is also safe as a file's.
pub fn is_network_name(name: &str) -> bool {
    name.starts_with(|it: char| it.is_ascii_alphanumeric())
        && name.chars().all(|it| it.is_ascii_alphanumeric() || "_.-".contains(it))
}

fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|it| it == "conflist")
}

/// Files with one of these extensions, by name.
fn files(dir: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|it| it.path());
    let wanted = |path: &PathBuf| {
        path.extension().and_then(|it| it.to_str()).is_some_and(|it| extensions.contains(&it))
    };
    let mut paths: Vec<_> = entries.filter(wanted).collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Result<Map<String, Value>, AttachError> {
    let failed = |operation, source| AttachError::File { operation, path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(|it| failed("read", it))?;
    serde_json::from_str(&text).map_err(|it| failed("use", io::Error::other(format!("no JSON object: {it}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        folder
    }

    fn types(config: Option<String>) -> Vec<String> {
        let config: Value = serde_json::from_str(&config.expect("found")).expect("JSON");
        let own = |it: &Value| it["type"].as_str().expect("a type").to_owned();
        match config["plugins"].as_array() {
            Some(plugins) => plugins.iter().map(own).collect(),
            None => vec![own(&config)],
        }
    }

    #[test]
    fn lists_come_before_single_plugins_and_broken_files_hide_none() {
        let folder = folder(&[
            ("00-broken.conf", "{"),
            ("10-single.conf", r#"{"name":"n","type":"single"}"#),
            ("20-list.conflist", r#"{"name":"n","plugins":[{"type":"list"}]}"#),
            ("30-other.json", r#"{"name":"other","type":"other"}"#),
            ("40-ignored.yaml", r#"{"name":"yaml","type":"ignored"}"#),
        ]);
        assert_eq!(types(named(folder.path(), "n").expect("read")), ["list"]);
        assert_eq!(types(named(folder.path(), "other").expect("read")), ["other"]);
        assert_eq!(named(folder.path(), "yaml").expect("read"), None);
        let error = first(folder.path()).expect_err("the first one is broken");
        assert!(error.to_string().contains("00-broken.conf"), "{error}");
        std::fs::remove_file(folder.path().join("00-broken.conf")).expect("removed");
        assert_eq!(types(first(folder.path()).expect("read")), ["single"]);
        assert_eq!(named(&folder.path().join("absent"), "n").expect("read"), None);
    }

    #[test]
    fn plugins_of_the_subdirectory_come_behind_the_list_s_own() {
        let files = [
            ("10.conflist", r#"{"name":"n","plugins":[{"type":"a"}]}"#),
            ("n/2.conf", r#"{"type":"c"}"#),
            ("n/1.conf", r#"{"type":"b"}"#),
            ("n/3.conflist", r#"{"type":"no"}"#),
        ];
        let folder = folder(&files);
        assert_eq!(types(named(folder.path(), "n").expect("read")), ["a", "b", "c"]);
        let path = folder.path().join("10.conflist");
        assert_eq!(types(file(&path).map(Some).expect("read")), ["a", "b", "c"]);
        let inlined = files[0].1.replace("\"plugins\"", "\"loadOnlyInlinedPlugins\":true,\"plugins\"");
        std::fs::write(&path, inlined).expect("written");
        assert_eq!(types(file(&path).map(Some).expect("read")), ["a"]);
        std::fs::write(folder.path().join("n/4.conf"), "{}").expect("written");
        let error = chain(folder.path(), "n").expect_err("no type");
        assert!(error.to_string().contains("n/4.conf"), "{error}");
    }

    #[test]
    fn names_of_networks_are_no_paths() {
        assert!(is_network_name("vendor-cni-chain") && is_network_name("0.a_b"));
        assert!(!is_network_name("") && !is_network_name("..") && !is_network_name("a/b"));
    }
}
