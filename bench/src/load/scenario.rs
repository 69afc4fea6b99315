//! Scenario files: what is sent, in YAML or JSON. `docs/benchmarking.md` has the format.

use crate::lab::endpoint::Teid;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

/// Most sessions of a scenario: what one UPF pod is expected to carry.
pub const MAX_SESSIONS: u32 = 1 << 20;

/// One scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    #[serde(default)]
    pub ethernet: Ethernet,
    /// The tunnel that the users' packets are in; without it they are sent as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtpu: Option<Tunnel>,
    pub user: UserPacket,
    /// Sessions: each one's TEID and user's address are one more than those of the session before.
    #[serde(default = "one")]
    pub sessions: u32,
    /// Flows of a session: each one's source port is one more.
    #[serde(default = "one")]
    pub flows: u32,
    /// In which order sessions have their turn.
    #[serde(default)]
    pub order: Order,
    pub sizes: Sizes,
    #[serde(default)]
    pub send: Sending,
}

fn one() -> u32 {
    1
}

/// MAC addresses; those that are not given come from the interface and from `--destination`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ethernet {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Mac>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Mac>,
}

/// The outer headers: one gNB (or UPF) and one tunnel endpoint, as in the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tunnel {
    pub source: IpAddr,
    pub destination: IpAddr,
    #[serde(default = "gtpu_port")]
    pub source_port: u16,
    /// Of the first session.
    pub teid: Teid,
    /// With it, a PDU Session Container (TS 38.415): uplink, unless `downlink` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qfi: Option<u8>,
    #[serde(default)]
    pub downlink: bool,
    /// DSCP of the outer header.
    #[serde(default)]
    pub dscp: u8,
}

fn gtpu_port() -> u16 {
    crate::lab::endpoint::GTPU_PORT
}

/// A user's packet: UDP, with one of its addresses the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserPacket {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Of the first flow.
    #[serde(default = "first_port")]
    pub source_port: u16,
    #[serde(default = "discard")]
    pub destination_port: u16,
    /// Which address is the user's and counts up with the sessions.
    #[serde(default)]
    pub is: User,
}

fn first_port() -> u16 {
    40_000
}

/// RFC 863.
fn discard() -> u16 {
    9
}

/// Where the user is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum User {
    /// Uplink.
    #[default]
    Source,
    /// Downlink.
    Destination,
}

/// In which order sessions have their turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// One after the other.
    Sequential,
    /// Each as often as any other, in no order that a cache could guess.
    #[default]
    Uniform,
    /// The n-th most frequent session 1/n^s as often as the first.
    Zipf(f64),
}

impl Order {
    /// For reports.
    pub fn name(self) -> String {
        match self {
            Self::Sequential => "sequential".to_owned(),
            Self::Uniform => "uniform".to_owned(),
            Self::Zipf(exponent) => format!("zipf {exponent}"),
        }
    }
}

/// Lengths of the users' IP packets in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Sizes {
    One(u16),
    Named(Named),
    Mix(Vec<Weighted>),
}

/// Known mixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Named {
    /// 7 of 64 bytes, 4 of 576, 1 of 1400: the simple Internet mix, with the largest that fits a tunnel.
    Imix,
}

/// One length of a mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    pub bytes: u16,
    pub weight: u16,
}

impl Sizes {
    /// All lengths with their weights.
    pub fn mix(&self) -> Vec<Weighted> {
        let weighted = |(bytes, weight)| Weighted { bytes, weight };
        match self {
            Self::One(bytes) => vec![weighted((*bytes, 1))],
            Self::Named(Named::Imix) => [(64, 7), (576, 4), (1400, 1)].map(weighted).to_vec(),
            Self::Mix(mix) => mix.clone(),
        }
    }
}

/// How it is sent, unless the command line says otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sending {
    /// Frames a second, all threads together; as fast as possible if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Frames in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<u64>,
    /// The longest that is sent.
    #[serde(default = "ten_seconds")]
    pub seconds: f64,
    /// CPUs to send from, one thread on each.
    #[serde(default = "first_cpu")]
    pub cpus: Vec<usize>,
    /// Frames that are handed over to the driver at once.
    #[serde(default = "burst")]
    pub burst: u32,
    /// Frames carry the time of sending, from which the sink counts how long they took. Reading the clock
    /// costs the generator a part of its rate.
    #[serde(default)]
    pub latency: bool,
}

fn ten_seconds() -> f64 {
    10.0
}

fn first_cpu() -> Vec<usize> {
    vec![0]
}

fn burst() -> u32 {
    64
}

impl Default for Sending {
    fn default() -> Self {
        Self {
            rate: None,
            frames: None,
            seconds: ten_seconds(),
            cpus: first_cpu(),
            burst: burst(),
            latency: false,
        }
    }
}

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is not a scenario; with file and key.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("scenario {}", path.display()))
    }

    /// Reads a text.
    ///
    /// # Errors
    /// It is not a scenario.
    pub fn parse(text: &str) -> Result<Self> {
        let scenario: Self = serde_saphyr::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Whether what it says can be sent.
    ///
    /// # Errors
    /// The key, its value and what would be right.
    pub fn check(&self) -> Result<()> {
        let Self { sessions, flows, sizes, send, user, gtpu, .. } = self;
        ensure!((1..=MAX_SESSIONS).contains(sessions), "sessions: {sessions}, should be 1 to {MAX_SESSIONS}");
        ensure!((1..=10_000).contains(flows), "flows: {flows}, should be 1 to 10000");
        ensure!(
            u32::from(user.source_port) + flows - 1 <= 0xffff,
            "user.sourcePort: {} and {flows} flows go beyond 65535",
            user.source_port
        );
        ensure!(
            user.source.is_ipv4() == user.destination.is_ipv4(),
            "user: source {} and destination {} should be of one family",
            user.source,
            user.destination
        );
        if let Some(tunnel) = gtpu {
            ensure!(
                tunnel.source.is_ipv4() == tunnel.destination.is_ipv4(),
                "gtpu: source {} and destination {} should be of one family",
                tunnel.source,
                tunnel.destination
            );
            ensure!(tunnel.qfi.is_none_or(|it| it < 64), "gtpu.qfi: {:?}, should be 0 to 63", tunnel.qfi);
            ensure!(tunnel.dscp < 64, "gtpu.dscp: {}, should be 0 to 63", tunnel.dscp);
            ensure!(
                tunnel.teid.0.checked_add(sessions - 1).is_some(),
                "gtpu.teid: {} and {sessions} sessions go beyond 0xffffffff",
                tunnel.teid
            );
        }
        let mix = sizes.mix();
        let least = super::template::least_size(user.source.is_ipv4());
        ensure!((1..=16).contains(&mix.len()), "sizes: {} lengths, should be 1 to 16", mix.len());
        for Weighted { bytes, weight } in &mix {
            ensure!((least..=1920).contains(bytes), "sizes: {bytes} bytes, should be {least} to 1920");
            ensure!((1..=64).contains(weight), "sizes: a weight of {weight}, should be 1 to 64");
        }
        if let Order::Zipf(exponent) = self.order {
            ensure!((0.0..=4.0).contains(&exponent), "order.zipf: {exponent}, should be 0 to 4");
        }
        ensure!(send.rate.is_none_or(|it| it >= 1.0), "send.rate: {:?}, should be 1 or more", send.rate);
        ensure!(
            send.seconds > 0.0 && send.seconds <= 86_400.0,
            "send.seconds: {}, should be more than 0 and at most 86400",
            send.seconds
        );
        ensure!(!send.cpus.is_empty(), "send.cpus: should name a CPU");
        ensure!((1..=256).contains(&send.burst), "send.burst: {}, should be 1 to 256", send.burst);
        Ok(())
    }

    /// How it is sent unless told otherwise.
    pub fn load(&self) -> super::Load {
        let Sending { rate, frames, seconds, .. } = self.send;
        super::Load { rate, frames, time: std::time::Duration::from_secs_f64(seconds) }
    }
}

/// A MAC address, written as `02:00:00:00:00:01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|it| (it.len() == 2).then(|| u8::from_str_radix(it, 16).ok()).flatten())
            .collect();
        let mac = bytes.and_then(|it| it.try_into().ok());
        mac.map(Self).ok_or_else(|| format!("\"{text}\" is no MAC address such as 02:00:00:00:00:01"))
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "
name: least
user: { source: 10.60.0.1, destination: 10.50.0.1 }
sizes: 64
";

    #[test]
    fn the_committed_scenarios_can_be_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let scenario = Scenario::read(&path).unwrap();
            assert_eq!(path.file_stem().unwrap().to_str(), Some(scenario.name.as_str()));
            super::super::template::Templates::new(&scenario, Mac([2; 6]), Mac([4; 6])).unwrap();
            names.push(scenario.name);
        }
        assert!(names.len() >= 4, "{names:?}");
    }

    #[test]
    fn what_is_not_said_has_a_meaning() {
        let scenario = Scenario::parse(LEAST).unwrap();
        assert_eq!((scenario.sessions, scenario.flows, scenario.order), (1, 1, Order::Uniform));
        assert_eq!((scenario.user.is, scenario.send.burst), (User::Source, 64));
        assert_eq!(scenario.load().rate, None);
        let json = serde_json::to_string(&scenario).unwrap();
        assert_eq!(Scenario::parse(&json).unwrap(), scenario);
    }

    #[test]
    fn what_cannot_be_sent_is_named() {
        for (change, wanted) in [
            ("sessions: 0", "sessions: 0, should be 1 to"),
            ("sizes: 39", "sizes: 39 bytes, should be 40 to 1920"),
            ("order: { zipf: 9 }", "order.zipf: 9, should be 0 to 4"),
            ("send: { burst: 1000 }", "send.burst: 1000, should be 1 to 256"),
            ("ethernet: { source: \"1:2\" }", "\"1:2\" is no MAC address"),
            ("colour: red", "colour"),
            (
                "gtpu: { source: 10.0.0.1, destination: 10.0.0.2, teid: \"0xffffffff\" }\nsessions: 2",
                "go beyond",
            ),
        ] {
            let key = change.split(':').next().unwrap();
            let kept = LEAST.lines().filter(|it| !it.starts_with(key)).collect::<Vec<_>>().join("\n");
            let error = Scenario::parse(&format!("{kept}\n{change}\n")).unwrap_err();
            let text = format!("{error:#}");
            assert!(text.contains(wanted), "{change}: {text}");
        }
    }
}
