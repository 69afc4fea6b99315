//! Reading JSON objects so that every problem is found, each with its place, and not only the first.

use serde_json::{Map, Value};
use std::str::FromStr;

/// What is wrong at one place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FieldProblem {
    /// `gtpu.peers[1]`.
    pub path: String,
    pub message: String,
}

/// Problems so far.
pub(super) type Problems = Vec<FieldProblem>;

/// One object at one place.
pub(super) struct Reader<'a> {
    object: &'a Map<String, Value>,
    path: String,
}

impl<'a> Reader<'a> {
    /// `None`, and a problem, if `value` is no object. Keys that are not in `keys` are problems.
    pub(super) fn new(value: &'a Value, path: &str, keys: &[&str], problems: &mut Problems) -> Option<Self> {
        let Some(object) = value.as_object() else {
            report(problems, path, format!("is {value}, should be an object"));
            return None;
        };
        let this = Self { object, path: path.to_owned() };
        for key in object.keys().filter(|it| !keys.contains(&it.as_str())) {
            report(
                problems,
                &this.at(key),
                format!("is not a key of netplane; known here: {}", keys.join(", ")),
            );
        }
        Some(this)
    }

    pub(super) fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value, unless it is absent or null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|it| !it.is_null())
    }

    pub(super) fn required(&self, key: &str, problems: &mut Problems) -> Option<&'a Value> {
        let value = self.get(key);
        if value.is_none() {
            report(problems, &self.at(key), "is missing");
        }
        value
    }

    pub(super) fn string(&self, key: &str, problems: &mut Problems) -> Option<&'a str> {
        let value = self.get(key)?;
        let string = value.as_str();
        if string.is_none() {
            report(problems, &self.at(key), format!("is {value}, should be a string"));
        }
        string
    }

    pub(super) fn boolean(&self, key: &str, problems: &mut Problems) -> Option<bool> {
        let value = self.get(key)?;
        let boolean = value.as_bool();
        if boolean.is_none() {
            report(problems, &self.at(key), format!("is {value}, should be true or false"));
        }
        boolean
    }

    /// A number in `range`.
    pub(super) fn number(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<u64>,
        problems: &mut Problems,
    ) -> Option<u64> {
        let value = self.get(key)?;
        let number = value.as_u64().filter(|it| range.contains(it));
        if number.is_none() {
            let (low, high) = (range.start(), range.end());
            report(problems, &self.at(key), format!("is {value}, should be a number from {low} to {high}"));
        }
        number
    }

    /// A string that is parsed; `form` says what it should look like.
    pub(super) fn parsed<T: FromStr>(&self, key: &str, form: &str, problems: &mut Problems) -> Option<T> {
        let string = self.string(key, problems)?;
        parse(string, &self.at(key), form, problems)
    }

    /// A list of strings that are parsed.
    pub(super) fn list<T: FromStr>(&self, key: &str, form: &str, problems: &mut Problems) -> Vec<T> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let Some(items) = value.as_array() else {
            report(problems, &self.at(key), format!("is {value}, should be a list"));
            return Vec::new();
        };
        let item = |(number, item): (usize, &Value)| {
            let path = format!("{}[{number}]", self.at(key));
            match item.as_str() {
                Some(string) => parse(string, &path, form, problems),
                None => {
                    report(problems, &path, format!("is {item}, should be {form}"));
                    None
                }
            }
        };
        items.iter().enumerate().filter_map(item).collect()
    }
}

fn parse<T: FromStr>(string: &str, path: &str, form: &str, problems: &mut Problems) -> Option<T> {
    let parsed = string.parse().ok();
    if parsed.is_none() {
        report(problems, path, format!("is \"{string}\", should be {form}"));
    }
    parsed
}

pub(super) fn report(problems: &mut Problems, path: &str, message: impl Into<String>) {
    problems.push(FieldProblem { path: path.to_owned(), message: message.into() });
}
