//! Logging of one plugin call: `logLevel`, `logToStderr`, `logFile` and `logOptions`, with Multus's meaning.
//! To stderr and into the file only: stdout is the protocol.

use super::log_file::{LogFile, Rotation};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::time::Duration;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// Where nothing is said. Multus's default is `panic`; here one sees what was passed over.
const DEFAULT_LEVEL: LevelFilter = LevelFilter::WARN;

const MEGABYTE: u64 = 1 << 20;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The keys of the configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Settings {
    #[serde(default)]
    log_level: Option<String>,
    /// Absent: yes.
    #[serde(default)]
    log_to_stderr: Option<bool>,
    #[serde(default)]
    log_file: Option<PathBuf>,
    #[serde(default)]
    log_options: Option<Options>,
}

/// `logOptions`. 0 is no limit, but for `maxSize`, where it is the default.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Options {
    /// Days that old files are kept.
    #[serde(default)]
    max_age: Option<u32>,
    /// Megabytes (2²⁰ bytes) of the file.
    #[serde(default)]
    max_size: Option<u32>,
    /// How many old files are kept.
    #[serde(default)]
    max_backups: Option<u32>,
    /// Whether old files are compressed with gzip.
    #[serde(default)]
    compress: Option<bool>,
}

impl Options {
    /// With the defaults of Multus.
    fn rotation(&self) -> Rotation {
        let limit = |given: Option<u32>, default| Some(given.unwrap_or(default)).filter(|it| *it != 0);
        Rotation {
            max_size: u64::from(limit(self.max_size, 100).unwrap_or(100)) * MEGABYTE,
            max_age: limit(self.max_age, 5).map(|it| DAY * it),
            max_backups: limit(self.max_backups, 5).and_then(|it| usize::try_from(it).ok()),
            compress: self.compress.unwrap_or(true),
        }
    }
}

impl Settings {
    /// As far as they can be read: an error in them is to be logged, too.
    fn of_stdin(stdin: &[u8]) -> Self {
        let config: Map<String, Value> = serde_json::from_slice(stdin).unwrap_or_default();
        let single = |key: &str| {
            let value = config.get(key)?;
            serde_json::from_value::<Self>(Map::from_iter([(key.to_owned(), value.clone())]).into()).ok()
        };
        Self {
            log_level: single("logLevel").and_then(|it| it.log_level),
            log_to_stderr: single("logToStderr").and_then(|it| it.log_to_stderr),
            log_file: single("logFile").and_then(|it| it.log_file),
            log_options: single("logOptions").and_then(|it| it.log_options),
        }
    }

    /// The level, and a word for the log where it is not one. Multus has no level for warnings: they are
    /// where errors are.
    fn level(&self) -> (LevelFilter, Option<&str>) {
        match self.log_level.as_deref().map(|it| (it, it.to_ascii_lowercase())) {
            None | Some(("", _)) => (DEFAULT_LEVEL, None),
            Some((given, name)) => match name.as_str() {
                "panic" => (LevelFilter::OFF, None),
                "error" => (LevelFilter::WARN, None),
                "verbose" => (LevelFilter::INFO, None),
                "debug" => (LevelFilter::DEBUG, None),
                _ => (DEFAULT_LEVEL, Some(given)),
            },
        }
    }
}

/// Sets the log of this process up, as the configuration on stdin says. `RUST_LOG` overrides the level.
pub(super) fn start(stdin: &[u8]) {
    let settings = Settings::of_stdin(stdin);
    let (level, wrong) = settings.level();
    let filter = || EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level.to_string()));
    let to_stderr = settings.log_to_stderr.unwrap_or(true);
    let stderr = fmt::layer().with_ansi(false).with_writer(std::io::stderr).with_filter(filter());
    let path = settings.log_file.clone().filter(|it| !it.as_os_str().is_empty());
    let rotation =
        settings.log_options.as_ref().map_or_else(|| Options::default().rotation(), Options::rotation);
    let file = path.map(|it| LogFile::new(it, rotation));
    let file = file.map(|it| fmt::layer().with_ansi(false).with_writer(it).with_filter(filter()));
    let log = tracing_subscriber::registry().with(to_stderr.then_some(stderr)).with(file);
    // Set already: in a process that is more than one call.
    let _ = log.try_init();
    if let Some(wrong) = wrong {
        tracing::warn!(logLevel = wrong, "no such level, should be panic, error, verbose or debug");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(config: &Value) -> Settings {
        Settings::of_stdin(config.to_string().as_bytes())
    }

    #[test]
    fn levels_are_those_of_multus() {
        for (config, expected) in [
            (json!({}), (LevelFilter::WARN, None)),
            (json!({"logLevel": ""}), (LevelFilter::WARN, None)),
            (json!({"logLevel": "panic"}), (LevelFilter::OFF, None)),
            (json!({"logLevel": "error"}), (LevelFilter::WARN, None)),
            (json!({"logLevel": "Verbose"}), (LevelFilter::INFO, None)),
            (json!({"logLevel": "debug"}), (LevelFilter::DEBUG, None)),
            (json!({"logLevel": "loud"}), (LevelFilter::WARN, Some("loud"))),
            (json!({"logLevel": 7}), (LevelFilter::WARN, None)),
        ] {
            assert_eq!(settings(&config).level(), expected, "{config}");
        }
    }

    #[test]
    fn options_have_the_defaults_of_multus() {
        let defaults = Rotation {
            max_size: 100 * MEGABYTE,
            max_age: Some(DAY * 5),
            max_backups: Some(5),
            compress: true,
        };
        assert_eq!(Options::default().rotation(), defaults);
        let given = settings(&json!({"logOptions":
            {"maxSize": 2, "maxAge": 1, "maxBackups": 3, "compress": false}}));
        let options = given.log_options.expect("options").rotation();
        let expected =
            Rotation { max_size: 2 * MEGABYTE, max_age: Some(DAY), max_backups: Some(3), compress: false };
        assert_eq!(options, expected);
        let zero = settings(&json!({"logOptions": {"maxSize": 0, "maxAge": 0, "maxBackups": 0}}));
        let options = zero.log_options.expect("options").rotation();
        assert_eq!(options, Rotation { max_age: None, max_backups: None, ..defaults });
    }

    #[test]
    fn one_wrong_key_hides_no_other() {
        let settings = settings(&json!({"logFile": "/x", "logToStderr": "no", "logOptions": 7}));
        assert_eq!(settings.log_file, Some(PathBuf::from("/x")));
        assert_eq!(settings.log_to_stderr, None);
    }
}
