//! Reports: the data, the statistics, the page for people, and the comparison of two.

pub mod machine;

pub mod model;

pub mod stats;

pub mod targets;

pub mod svg;

pub mod html;

pub mod compare;

pub mod text;

use anyhow::{Context, Result, ensure};
use model::{Report, Row, SCHEMA};
use std::path::Path;
use std::time::{Instant, SystemTime};

/// A run that is under way.
#[derive(Debug)]
pub struct Run {
    machine: machine::Machine,
    started: u64,
    start: Instant,
}

impl Run {
    /// Starts one: notes the machine as it is before it has work.
    pub fn start() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { machine: machine::Machine::this(), started: now.as_secs(), start: Instant::now() }
    }

    /// The report of what was measured.
    pub fn finish(self, rows: Vec<Row>, note: Option<String>) -> Report {
        Report {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: self.machine,
            started: self.started,
            seconds: self.start.elapsed().as_secs_f64(),
            note,
            rows,
        }
    }
}

/// Reads a report.
///
/// # Errors
/// It cannot be read, or is of another form.
pub fn read(path: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let report: Report = serde_json::from_str(&text).with_context(|| format!("report {}", path.display()))?;
    let schema = report.schema;
    ensure!(schema == SCHEMA, "{}: schema {schema}, this program reads {SCHEMA}", path.display());
    Ok(report)
}

/// Writes `report.json` and `report.html` into a folder.
///
/// # Errors
/// They cannot be written.
pub fn write(report: &Report, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("folder {}", folder.display()))?;
    let mut json = serde_json::to_string_pretty(report)?;
    json.push('\n');
    for (name, text) in [("report.json", json), ("report.html", html::page(report))] {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
