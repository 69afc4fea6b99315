//! What is attached, and by whom.

use serde_json::{Value, json};
use std::path::Path;

/// The networks of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// macvlan as the default network.
    One,
    /// macvlan as the default network and once more: what most pods have that have more than one.
    Two,
    /// macvlan three times.
    Three,
    /// ptp as the default network, and macvlan twice.
    PtpAndTwo,
}

impl Shape {
    pub const ALL: [Self; 4] = [Self::One, Self::Two, Self::Three, Self::PtpAndTwo];

    pub const fn name(self) -> &'static str {
        match self {
            Self::One => "1 macvlan",
            Self::Two => "2 macvlan",
            Self::Three => "3 macvlan",
            Self::PtpAndTwo => "ptp + 2 macvlan",
        }
    }

    /// Networks by their number, each on a master and with a subnet of its own. Number 0 is the default one.
    pub(super) const fn networks(self) -> &'static [Network] {
        match self {
            Self::One => &[Network { number: 0, ptp: false }],
            Self::Two => &[Network { number: 0, ptp: false }, Network { number: 1, ptp: false }],
            Self::Three => &[
                Network { number: 0, ptp: false },
                Network { number: 1, ptp: false },
                Network { number: 2, ptp: false },
            ],
            Self::PtpAndTwo => &[
                Network { number: 3, ptp: true },
                Network { number: 1, ptp: false },
                Network { number: 2, ptp: false },
            ],
        }
    }
}

/// One network, with host-local addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network {
    number: usize,
    ptp: bool,
}

impl Network {
    pub(super) const MASTERS: [&'static str; 3] = ["m0", "m1", "m2"];

    pub(super) fn name(self) -> String {
        format!("network{}", self.number)
    }

    /// Its configuration for `subject`, with addresses reserved below `folder`.
    pub(super) fn configuration(self, subject: Subject, folder: &Path) -> Value {
        let subnet = format!("10.{}.0.0/16", 100 + self.number);
        let mut configuration = json!({
            "cniVersion": "1.0.0", "name": self.name(),
            "ipam": { "type": "host-local", "dataDir": folder, "subnet": subnet },
        });
        if self.ptp {
            configuration["type"] = json!("ptp");
        } else {
            configuration["type"] = json!("macvlan");
            configuration["mode"] = json!("bridge");
            configuration["master"] = json!(Self::MASTERS.get(self.number));
        }
        if subject == Subject::NetplaneExec {
            configuration["netplane"] = json!({ "builtin": false });
        }
        configuration
    }
}

/// Who attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// netplane with its built-in plugins.
    Netplane,
    /// netplane, all plugins run as programs: what it adds to them.
    NetplaneExec,
    /// The reference plugins, run one after the other as libcni does.
    Reference,
}

impl Subject {
    pub const ALL: [Self; 3] = [Self::Netplane, Self::NetplaneExec, Self::Reference];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Netplane => "netplane",
            Self::NetplaneExec => "netplane, exec",
            Self::Reference => "reference",
        }
    }

    /// A word for folders.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Netplane => "builtin",
            Self::NetplaneExec => "exec",
            Self::Reference => "reference",
        }
    }
}

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    Add,
    Del,
}

impl Verb {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
        }
    }
}
