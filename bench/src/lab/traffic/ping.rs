//! Plain `ping`, the one of busybox.

use super::Host;
use crate::lab::command::{BUSYBOX, NSENTER};
use anyhow::{Context, Result, bail};
use std::net::Ipv4Addr;

/// What `ping` says at its end.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PingReport {
    pub sent: u32,
    pub received: u32,
    /// TTL of the last reply.
    pub ttl: Option<u8>,
    /// Round trip in milliseconds: smallest, mean, largest. Absent without a reply.
    pub rtt_ms: Option<[f64; 3]>,
}

/// Sends `count` echo requests of `size` bytes of data, 20 a second, from a host's address.
///
/// # Errors
/// busybox is not installed, or cannot send. Lost replies are no error.
pub fn ping(from: Host<'_>, to: Ipv4Addr, count: u32, size: u16) -> Result<PingReport> {
    if !BUSYBOX.is_installed() {
        return Err(BUSYBOX.explain(std::io::ErrorKind::NotFound.into()));
    }
    let mut command = from.namespace.command(BUSYBOX.program);
    let (count, size) = (count.to_string(), size.to_string());
    command.args(["ping", "-i", "0.05", "-W", "2", "-c", &count, "-s", &size]);
    command.args(["-I", &from.address.to_string(), &to.to_string()]);
    let output = NSENTER.finish(&mut command, &[])?;
    let text = String::from_utf8_lossy(&output.stdout);
    match parse(&text) {
        Some(report) => Ok(report),
        None => bail!(
            "`{}`: {}: {text}{}",
            crate::lab::command::line(&command),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

impl PingReport {
    /// Whether every request was answered.
    pub fn is_complete(&self) -> bool {
        self.sent > 0 && self.sent == self.received
    }

    /// Mean round trip in milliseconds.
    ///
    /// # Errors
    /// There was no reply.
    pub fn mean_rtt_ms(&self) -> Result<f64> {
        self.rtt_ms.map(|[_, mean, _]| mean).context("no reply to ping")
    }
}

fn parse(text: &str) -> Option<PingReport> {
    let summary = text.lines().find(|line| line.contains("packets transmitted"))?;
    let mut numbers = summary.split(", ").map(|part| part.split(' ').next()?.parse().ok());
    let (sent, received) = (numbers.next()??, numbers.next()??);
    let mut ttl = text.lines().filter_map(|line| line.split("ttl=").nth(1)?.split(' ').next()?.parse().ok());
    let rtt_ms = text.lines().find_map(|line| {
        let numbers = line.strip_prefix("round-trip min/avg/max = ")?.strip_suffix(" ms")?;
        let numbers: Vec<f64> = numbers.split('/').map(str::parse).collect::<Result<_, _>>().ok()?;
        numbers.try_into().ok()
    });
    Some(PingReport { sent, received, ttl: ttl.next_back(), rtt_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_read() {
        let text = "PING 10.50.0.1 (10.50.0.1): 56 data bytes\n\
            64 bytes from 10.50.0.1: seq=0 ttl=63 time=0.101 ms\n\
            64 bytes from 10.50.0.1: seq=1 ttl=63 time=0.056 ms\n\n\
            --- 10.50.0.1 ping statistics ---\n\
            3 packets transmitted, 2 packets received, 33% packet loss\n\
            round-trip min/avg/max = 0.056/0.078/0.101 ms\n";
        let expected =
            PingReport { sent: 3, received: 2, ttl: Some(63), rtt_ms: Some([0.056, 0.078, 0.101]) };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("ping: bad address"), None);
    }
}
