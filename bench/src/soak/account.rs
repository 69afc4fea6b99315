//! The account: for each kind what was sent, what came out where, what was counted as not forwarded, and what is
//! left, which must be nothing.

use super::kinds::{Fate, Kind};
use super::traffic::{Arrivals, Sent};
use crate::lab::command::ETHTOOL;
use crate::lab::upf_pod::UpfPod;
use crate::lab::{Lab, Namespace};
use anyhow::Result;
use std::collections::BTreeMap;
use std::fmt;

const NO_NEXT_HOP: &str = "next-hop-unresolved";

/// Counters of netplane and of the kernel at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counters {
    /// Not forwarded, by network and reason.
    reasons: BTreeMap<String, u64>,
    /// Forwarded by sessions.
    sessions: u64,
    /// Dropped by the veth pairs of the wires, whose queues are finite.
    wires: u64,
}

impl Counters {
    pub(super) fn read(lab: &Lab, upf_pod: &UpfPod<'_>) -> Result<Self> {
        let mut wires = 0;
        for (namespace, interface) in
            [(&lab.gnb, "n3"), (&lab.dn, "n6"), (&lab.node, "n3"), (&lab.node, "n6")]
        {
            wires += dropped(namespace, interface)?;
        }
        Ok(Self { reasons: upf_pod.counters()?, sessions: upf_pod.session_packets()?, wires })
    }

    fn reason(&self, name: &str) -> u64 {
        self.reasons.get(name).copied().unwrap_or(0)
    }
}

/// Frames that an interface could not hand on: for want of room in its peer's ring, by XDP or not.
fn dropped(namespace: &Namespace, interface: &str) -> Result<u64> {
    let links = namespace.ip_json(&["-statistics", "link", "show", interface])?;
    let plain = links.first().and_then(|it| it["stats64"]["tx"]["dropped"].as_u64()).unwrap_or(0);
    let statistics = namespace.tool(ETHTOOL, &["-S", interface])?;
    let counts = statistics.lines().filter_map(|line| {
        let (name, count) = line.trim().split_once(": ")?;
        let is_loss = ["xdp_xmit_errors", "xdp_tx_errors"].iter().any(|it| name.ends_with(it));
        is_loss.then(|| count.parse::<u64>().ok()).flatten()
    });
    Ok(plain + counts.sum::<u64>())
}

/// What became of the packets of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub name: String,
    pub sent: u64,
    /// Came out of N3 or N6, itself or its answer.
    pub out: u64,
    pub to_pod: u64,
    /// Counted as dropped.
    pub dropped: u64,
    /// Sent, and nowhere else.
    pub missing: i64,
}

/// What became of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub seconds: u64,
    pub troubles: usize,
    pub rows: Vec<Row>,
    /// Lost by the veth pairs, which do not say of what kind.
    pub wires: u64,
    /// Forwarded, as sessions count.
    pub sessions: u64,
    /// What is wrong; empty if every packet is accounted for.
    pub problems: Vec<String>,
}

impl Account {
    pub(super) fn draw_up(
        seconds: u64,
        troubles: usize,
        sent: &Sent,
        arrivals: Arrivals,
        before: &Counters,
        after: &Counters,
    ) -> Self {
        let counted = |name: &str| after.reason(name) - before.reason(name);
        let out = |kind: Kind| match kind {
            Kind::Echo => arrivals.gnb.echo_responses,
            _ => arrivals.gnb.of(kind) + arrivals.gateway.of(kind),
        };
        let mut account = Self {
            seconds,
            troubles,
            rows: Vec::new(),
            wires: after.wires - before.wires,
            sessions: after.sessions - before.sessions,
            problems: Vec::new(),
        };
        let mut known: Vec<String> = Vec::new();
        for kind in Kind::ALL.iter().copied() {
            let mut row = Row {
                name: kind.name().to_owned(),
                sent: sent.of(kind),
                out: out(kind),
                to_pod: arrivals.pod.iter().map(|it| it.of(kind)).sum(),
                dropped: 0,
                missing: 0,
            };
            match kind.fate() {
                Fate::Forwarded { .. } => account.nothing(&row, "into the pod", row.to_pod),
                Fate::ToPod(name) | Fate::Answered(name) => {
                    account.same(&row, name, row.sent, counted(name));
                    known.push(name.to_owned());
                }
                Fate::Dropped(name) => {
                    row.dropped = counted(name);
                    known.push(name.to_owned());
                    account.nothing(&row, "out", row.out);
                }
            }
            row.missing = row.sent.cast_signed() - (row.out + row.to_pod + row.dropped).cast_signed();
            account.rows.push(row);
        }
        for network in ["core/n3", "core/n6"] {
            let name = format!("{network} {NO_NEXT_HOP}");
            account.share(network, counted(&name));
            known.push(name);
        }
        account.close(&arrivals, after, &known);
        account
    }

    /// Packets without a next hop are counted for each network, not for each kind: they go off what is missing.
    fn share(&mut self, network: &str, mut count: u64) {
        for (row, kind) in self.rows.iter_mut().zip(Kind::ALL) {
            if matches!(kind.fate(), Fate::Forwarded { network: it } if it == network) {
                let share = count.min(u64::try_from(row.missing).unwrap_or(0));
                row.dropped += share;
                row.missing -= share.cast_signed();
                count -= share;
            }
        }
        if count > 0 {
            self.problems.push(format!("{network} {NO_NEXT_HOP}: {count} more than are missing"));
        }
    }

    fn close(&mut self, arrivals: &Arrivals, after: &Counters, known: &[String]) {
        let missing: i64 = self.rows.iter().map(|it| it.missing).sum();
        if missing != self.wires.cast_signed() || self.rows.iter().any(|it| it.missing < 0) {
            self.problems.push(format!("{missing} packets are missing, the wires lost {}", self.wires));
        }
        let [net1, net2] = &arrivals.pod;
        for (place, arrived) in
            [("N3", &arrivals.gnb), ("N6", &arrivals.gateway), ("net1", net1), ("net2", net2)]
        {
            if arrived.duplicates > 0 {
                self.problems.push(format!("{} packets came out of {place} twice", arrived.duplicates));
            }
        }
        for (name, count) in after.reasons.iter().filter(|(name, _)| !known.contains(name)) {
            self.problems.push(format!("{name}: {count}, which nothing was sent for"));
        }
        let out: u64 = self
            .rows
            .iter()
            .zip(Kind::ALL)
            .filter(|(_, kind)| is_forwarded(**kind))
            .map(|(row, _)| row.out)
            .sum();
        if self.sessions < out || self.sessions > out + self.wires {
            self.problems.push(format!("sessions count {} packets, {out} came out", self.sessions));
        }
    }

    fn nothing(&mut self, row: &Row, what: &str, count: u64) {
        if count > 0 {
            self.problems.push(format!("{}: {count} {what}", row.name));
        }
    }

    fn same(&mut self, row: &Row, name: &str, sent: u64, counted: u64) {
        if sent < counted || sent > counted + self.wires {
            self.problems.push(format!("{}: {sent} sent, {name} {counted}", row.name));
        }
    }

    /// Packets sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.rows.iter().map(|it| it.sent).sum()
    }
}

fn is_forwarded(kind: Kind) -> bool {
    matches!(kind.fate(), Fate::Forwarded { .. })
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:16}{:>12}{:>12}{:>12}{:>12}{:>10}",
            "", "sent", "came out", "to the pod", "dropped", "missing"
        )?;
        let total = |of: fn(&Row) -> u64| self.rows.iter().map(of).sum();
        let all = Row {
            name: "together".to_owned(),
            sent: total(|it| it.sent),
            out: total(|it| it.out),
            to_pod: total(|it| it.to_pod),
            dropped: total(|it| it.dropped),
            missing: self.rows.iter().map(|it| it.missing).sum(),
        };
        for Row { name, sent, out, to_pod, dropped, missing } in self.rows.iter().chain([&all]) {
            writeln!(f, "{name:16}{sent:>12}{out:>12}{to_pod:>12}{dropped:>12}{missing:>10}")?;
        }
        writeln!(f, "lost by the wires' queues, of any kind: {}", self.wires)?;
        write!(
            f,
            "{} s, {} troubles; sessions count {} packets",
            self.seconds, self.troubles, self.sessions
        )?;
        self.problems.iter().try_for_each(|it| write!(f, "\nwrong: {it}"))
    }
}
