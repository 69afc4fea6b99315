//! Reading results as plugins really write them: `null` and `""` for what is absent, addresses without a
//! prefix length, -1 for "no interface". Go's encoder makes the first two of empty fields.

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error};
use std::net::IpAddr;

/// `null` is the default.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// An address; `null` and `""` are none.
pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    let text = text.filter(|it| !it.is_empty());
    text.map(|it| it.parse().map_err(|_| D::Error::custom(format!("\"{it}\" is no IP address")))).transpose()
}

/// An address with its prefix length; without one it stands for itself alone.
pub(super) fn prefix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
    let text = String::deserialize(deserializer)?;
    let prefix = text.parse().or_else(|_| text.parse().map(|address: IpAddr| IpNet::from(address)));
    prefix.map_err(|_| D::Error::custom(format!("\"{text}\" is neither ADDRESS/LENGTH nor an IP address")))
}

/// An index into a list; what cannot be one (-1) is none.
pub(super) fn index<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let number: Option<i64> = Option::deserialize(deserializer)?;
    Ok(number.and_then(|it| usize::try_from(it).ok()))
}
