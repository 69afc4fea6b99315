//! What becomes of a packet, and why. The numbers of [`Reason`] are stable: they index the network
//! counters, and metrics, `status` and events use the same names. A retired number is not reused.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal, $kind:ident;)+) => {
        /// Why a packet was dropped, or passed although it was for an endpoint of ours.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[doc = $doc])+ $variant = $number,)+ }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in metrics, `status`, events and logs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One sentence for people.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }

            /// Whether packets with this reason are dropped (else passed to the pod).
            pub const fn is_drop(self) -> bool {
                match self { $(Self::$variant => reasons!(@ $kind),)+ }
            }
        }
    };
    (@ drop) => { true };
    (@ pass) => { false };
}

reasons! {
    /// The outer source address is not in the network's `gtpu.peers`.
    PeerNotAllowed = 1, "peer-not-allowed", drop;
    /// The inner source address is not an address of the session.
    UeSpoofed = 2, "ue-spoofed", drop;
    /// No session for this TEID, and the network says to drop (`gtpu.unknownTeid`).
    UnknownTeid = 3, "unknown-teid", drop;
    /// The next hop's MAC address is not known yet, or the pod has no route.
    NextHopUnresolved = 4, "next-hop-unresolved", drop;
    /// The packet does not fit the path after the tunnel's header is added or taken off.
    TooBig = 5, "too-big", drop;
    /// The inner TTL or hop limit would reach zero.
    TtlExpired = 6, "ttl-expired", drop;
    /// The session's rules say to drop.
    SessionDrop = 7, "session-drop", drop;
    /// The GTP-U header or the packet inside it contradicts itself or the frame's length.
    Malformed = 8, "malformed", drop;
    /// The outer header says congestion was experienced, the inner one cannot carry it (RFC 6040).
    EcnNotCapable = 9, "ecn-not-capable", drop;
    /// The driver gave no room in front of or behind the packet.
    NoRoom = 10, "no-room", drop;
    /// The G-PDU's PDU Session Container has not the session's QFI, or there is none.
    QfiMismatch = 12, "qfi-mismatch", drop;
    /// A G-PDU for an endpoint, but no session for its TEID: the pod may know it.
    PassUnknownTeid = 32, "pass-unknown-teid", pass;
    /// A GTP-U message that is for the pod: Echo, Error Indication, End Marker and the like.
    PassSignalling = 33, "pass-signalling", pass;
    /// An extension header that must be understood and is not (TS 29.281 §5.2.1): the pod answers.
    PassExtensionHeader = 34, "pass-extension-header", pass;
    /// Not GTP-U version 1 on its port.
    PassNotGtpu = 35, "pass-not-gtpu", pass;
    /// A user's packet to a multicast, broadcast or link-local address, such as a Router Solicitation: no
    /// router forwards it, the pod may want it.
    PassNotRoutable = 36, "pass-not-routable", pass;
    /// An Echo Request that was answered for the pod (`gtpu.echo`).
    EchoAnswered = 48, "echo-answered", pass;
}

/// The outcome for one packet. A packet is never half-rewritten: `Pass` leaves it as it came.
///
/// The alignment makes it larger than what functions return in a register. In a register the fields that a
/// variant has not are bits that nobody has set, and the verifier refuses programs that touch them; in memory
/// each field goes its own way, and once all is inlined nothing of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[repr(align(32))]
pub enum Verdict {
    /// Not ours: to the kernel, uncounted.
    Pass,
    /// For an endpoint of the network with this index, but for its processes to handle.
    PassCounted {
        network: u16,
        reason: Reason,
    },
    /// Out by the interface it came in by.
    Transmit,
    /// Out by the master with this index in the device map.
    Redirect {
        port: u32,
    },
    /// Not forwarded, but turned into an answer, which goes out by the master with this index in the device
    /// map, or, if that is `NO_INDEX`, by the interface that the packet came in by.
    Answer {
        network: u16,
        reason: Reason,
        port: u32,
    },
    Drop {
        network: u16,
        reason: Reason,
    },
}
