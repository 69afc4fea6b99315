//! The configuration as it can be judged before any call: for `netplane lint`.

use super::config::{Config, problems_by_key, unknown_keys};
use serde_json::Value;

/// What there is to say about a configuration.
#[derive(Debug, Default)]
pub struct Checked {
    /// Key (empty for the whole) and what is wrong.
    pub problems: Vec<(String, String)>,
    /// Keys that neither CNI nor netplane reads.
    pub unknown: Vec<String>,
    config: Option<Config>,
}

impl Checked {
    /// Whether pods of namespace `pod` may not use NADs of namespace `network` (`namespaceIsolation`).
    pub fn isolates(&self, pod: &str, network: &str) -> bool {
        self.config.as_ref().is_some_and(|it| it.isolates(pod, network))
    }
}

/// Every key that is wrong, and not only the first.
pub fn check_configuration(value: &Value) -> Checked {
    let Some(object) = value.as_object() else {
        let problem = "the configuration is not a JSON object".to_owned();
        return Checked { problems: vec![(String::new(), problem)], ..Checked::default() };
    };
    let mut checked = Checked { problems: problems_by_key(object), ..Checked::default() };
    if !checked.problems.is_empty() {
        return checked;
    }
    match Config::read(value.to_string().as_bytes()) {
        Ok(config) => {
            if config.cluster_network.is_none() && config.delegates.is_empty() {
                let problem = "neither clusterNetwork nor delegates is set: pods get no default network";
                checked.problems.push((String::new(), problem.to_owned()));
            }
            checked.config = Some(config);
            checked.unknown = unknown_keys(object);
        }
        Err(error) => checked.problems.push((String::new(), error.message)),
    }
    checked
}
