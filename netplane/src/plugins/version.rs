//! Versions of the CNI specification.

/// A version whose results are understood and made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    pub const NEWEST: Self = Self::V1_1_0;
    /// Of a configuration that has no `cniVersion`: the key came with 0.2.0, and libcni and Multus take
    /// its absence for 0.1.0.
    pub const UNSAID: Self = Self::V0_1_0;

    pub const fn name(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    /// The version of a plugin's configuration.
    pub fn of_config(config: &serde_json::Value) -> Self {
        let name = config.get("cniVersion").and_then(serde_json::Value::as_str);
        name.and_then(Self::parse).unwrap_or(Self::UNSAID)
    }

    /// Interfaces, any number of addresses, and lists came with 0.3.0; before, a result was `ip4` and `ip6`.
    pub fn has_interfaces(self) -> bool {
        self >= Self::V0_3_0
    }

    /// CHECK came with 0.4.0, and so did `prevResult` for DEL.
    pub fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// STATUS and GC came with 1.1.0.
    pub fn has_status(self) -> bool {
        self >= Self::V1_1_0
    }

    /// All names, for VERSION and for errors.
    pub fn supported() -> [&'static str; 7] {
        Self::ALL.map(Self::name)
    }
}
