//! The NetworkAttachmentDefinition and what the NPWG standard puts into annotations, as types.

pub mod device_info;
pub mod dir;
pub mod fast_path;
mod path_check;
mod reader;
pub mod selection;
pub mod status;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `namespace/name` of a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct NetworkName {
    pub namespace: String,
    pub name: String,
}

impl std::fmt::Display for NetworkName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl From<NetworkName> for String {
    fn from(name: NetworkName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for NetworkName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(format!("\"{text}\" is not NAMESPACE/NAME")),
        }
    }
}

/// A NetworkAttachmentDefinition as far as netplane reads it (NPWG standard §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nad {
    pub name: NetworkName,
    pub annotations: BTreeMap<String, String>,
    /// `spec.config`: a CNI configuration or list as JSON text; may be empty.
    pub config: String,
}
