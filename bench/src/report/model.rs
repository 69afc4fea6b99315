//! A report as data: what was measured, of what, on which machine, with all samples.

use super::machine::Machine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the JSON's form: goes up when a key changes its meaning.
pub const SCHEMA: u32 = 1;

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub schema: u32,
    /// Of netplane-bench.
    pub version: String,
    pub machine: Machine,
    /// Start of the run, seconds since 1970.
    pub started: u64,
    pub seconds: f64,
    /// What the person who ran it says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    pub rows: Vec<Row>,
}

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Lower,
    Higher,
}

/// One quantity of one subject with its samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// `packets`, `rates`, `attach`.
    pub part: String,
    /// The quantity.
    pub what: String,
    pub subject: String,
    /// Sessions, size and the like.
    pub parameters: BTreeMap<String, String>,
    pub unit: String,
    pub better: Better,
    pub samples: Vec<f64>,
    /// A distribution: lower bounds of buckets, in the unit, and how many there were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub histogram: Vec<(f64, u64)>,
    /// Where frames were dropped meanwhile.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub drops: BTreeMap<String, u64>,
}

impl Row {
    pub fn new(part: &str, what: &str, subject: &str, unit: &str, better: Better, samples: Vec<f64>) -> Self {
        Self {
            part: part.to_owned(),
            what: what.to_owned(),
            subject: subject.to_owned(),
            parameters: BTreeMap::new(),
            unit: unit.to_owned(),
            better,
            samples,
            histogram: Vec::new(),
            drops: BTreeMap::new(),
        }
    }

    /// With one parameter more.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.parameters.insert(key.to_owned(), value.to_string());
        self
    }

    pub fn parameter(&self, key: &str) -> Option<&str> {
        self.parameters.get(key).map(String::as_str)
    }

    pub fn number(&self, key: &str) -> Option<f64> {
        self.parameter(key)?.parse().ok()
    }

    pub fn median(&self) -> Option<f64> {
        super::stats::median(&self.samples)
    }

    /// What tells this row from all others of a report.
    pub fn key(&self) -> String {
        let parameters = self.parameters.iter().map(|(key, value)| format!(" {key}={value}"));
        format!("{} {}, {}{}", self.part, self.what, self.subject, parameters.collect::<String>())
    }
}
