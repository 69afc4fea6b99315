//! Why a session cannot be: what kind of thing is wrong, where in the session, and with what.

/// What kind of thing is wrong. The session API has the code of gRPC with the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The rules contradict themselves or say what cannot be.
    InvalidArgument,
    NotFound,
    /// Another session has it.
    AlreadyExists,
    /// It is not the caller's.
    PermissionDenied,
    /// A quota or a table is used up.
    ResourceExhausted,
    /// Right in itself, but nothing that this version forwards.
    Unimplemented,
    /// Not now.
    Unavailable,
}

/// Where in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    /// The network on which the tunnel ends, and the address there.
    Access,
    Local,
    Teid,
    /// Where the uplink goes.
    To,
    Relay,
    User,
    Framed,
    /// The network on which the downlink arrives, and the one into which it goes.
    Data,
    Tunnel,
    Peer,
}

impl Spot {
    /// The key of a static session in a NAD.
    fn nad(self) -> &'static str {
        match self {
            Self::Access | Self::Local | Self::Tunnel | Self::Peer => "",
            Self::Teid => "uplink.teid",
            Self::To | Self::Data => "uplink.to",
            Self::Relay => "uplink.relay.network",
            Self::User => "ue",
            Self::Framed => "framedRoutes",
        }
    }

    /// The field of the session API.
    fn field(self) -> &'static str {
        match self {
            Self::Access => "network_instance of the uplink's PDI",
            Self::Local => "local_f_teid.address",
            Self::Teid => "local_f_teid.teid",
            Self::To | Self::Relay => "network_instance of the uplink's FAR",
            Self::User => "ue_ip_addresses",
            Self::Framed => "framed_routes",
            Self::Data => "network_instance of the downlink's PDI",
            Self::Tunnel => "network_instance of the downlink's FAR",
            Self::Peer => "outer_header_creation.address",
        }
    }
}

/// Why a session, or a change of it, is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub kind: Kind,
    spot: Option<Spot>,
    message: String,
}

impl Refusal {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, spot: None, message: message.into() }
    }

    pub(super) fn invalid(spot: Spot, message: String) -> Self {
        Self { kind: Kind::InvalidArgument, spot: Some(spot), message }
    }

    pub(super) fn not_found(spot: Spot, message: String) -> Self {
        Self { kind: Kind::NotFound, spot: Some(spot), message }
    }

    pub(super) fn denied(spot: Spot, message: String) -> Self {
        Self { kind: Kind::PermissionDenied, spot: Some(spot), message }
    }

    pub(super) fn taken(spot: Spot, message: String) -> Self {
        Self { kind: Kind::AlreadyExists, spot: Some(spot), message }
    }

    pub(super) fn of_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// In the words of a NAD.
    pub(super) fn for_nad(&self) -> String {
        match self.spot.map(Spot::nad) {
            None | Some("") => self.message.clone(),
            Some(key) => format!("{key}: {}", self.message),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.spot {
            Some(spot) => write!(f, "{}: {}", spot.field(), self.message),
            None => f.write_str(&self.message),
        }
    }
}
