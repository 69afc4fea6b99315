//! An endpoint's configuration, as JSON in a file or as values.

use ipnet::Ipv4Net;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::net::Ipv4Addr;

/// All that an endpoint is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointConfig {
    pub role: Role,
    /// The address that GTP-U is received at and sent from.
    pub local: Ipv4Addr,
    pub tun: TunConfig,
    pub tunnels: Vec<Tunnel>,
}

/// Which end of the tunnels this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The users are here: their packets are known by the source, and go uplink.
    Gnb,
    /// The users are at the peers: packets to them are known by the destination, and go downlink.
    Upf,
}

/// The TUN device, with what makes the kernel send and take the users' packets there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TunConfig {
    pub name: String,
    /// Bytes of the largest user packet.
    pub mtu: u16,
    /// Prefixes of which every address is one of this host: a program may use any of them as its own.
    #[serde(default)]
    pub local: Vec<Ipv4Net>,
    /// Prefixes behind the device.
    #[serde(default)]
    pub routes: Vec<Ipv4Net>,
    /// Source address of who does not ask for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Ipv4Addr>,
}

/// One user's tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tunnel {
    pub ue: Ipv4Addr,
    /// TEID of what is received here.
    pub local_teid: Teid,
    pub peer: Ipv4Addr,
    /// TEID of what is sent to the peer.
    pub peer_teid: Teid,
    /// With it, a PDU Session Container is sent (TS 38.415).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qfi: Option<u8>,
}

/// A tunnel endpoint identifier; in JSON a number or a string such as "0x1001".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Teid(pub u32);

impl std::fmt::Display for Teid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Teid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Teid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum NumberOrText {
            Number(u32),
            Text(String),
        }
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(teid) => Ok(Self(teid)),
            NumberOrText::Text(text) => text
                .strip_prefix("0x")
                .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                .map(Self)
                .ok_or_else(|| {
                    de::Error::custom(format!("TEID \"{text}\" is not 0x and hexadecimal digits"))
                }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_reads_as_written() {
        let text = r#"{
            "role": "gnb", "local": "10.30.0.10",
            "tun": { "name": "ue0", "mtu": 1456, "local": ["10.60.0.0/22"], "routes": ["10.50.0.0/24"] },
            "tunnels": [
                { "ue": "10.60.0.1", "localTeid": "0x2001", "peer": "10.30.0.20", "peerTeid": 4097, "qfi": 9 }
            ]
        }"#;
        let config: EndpointConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.tunnels[0].local_teid, Teid(0x2001));
        assert_eq!(config.tunnels[0].peer_teid, Teid(0x1001));
        let again = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(config, again);
    }

    #[test]
    fn a_bad_teid_is_named() {
        let error = serde_json::from_str::<Teid>("\"1001\"").unwrap_err().to_string();
        assert!(error.contains("\"1001\""), "{error}");
    }
}
