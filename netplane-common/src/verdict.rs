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

            /// The reason with this number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
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
    /// Several packets in one buffer, or an unfinished checksum, and nothing there to finish them.
    Merged = 11, "merged", drop;
    /// The G-PDU's PDU Session Container has not the session's QFI, or there is none.
    QfiMismatch = 12, "qfi-mismatch", drop;
    /// None of the session's PDRs is for the packet.
    NoRule = 13, "no-rule", drop;
    /// The packet is over a maximum bit rate of the session's QERs.
    RateExceeded = 14, "rate-exceeded", drop;
    /// A quota of the session's URRs is used up.
    QuotaExhausted = 15, "quota-exhausted", drop;
    /// The packet was to be buffered, and no agent took it, or the agent did not keep up.
    NotBuffered = 16, "not-buffered", drop;
    /// A buffered packet made room for a newer one.
    BufferOverflow = 17, "buffer-overflow", drop;
    /// A buffered packet's session has gone, or the agent has ended.
    BufferDiscarded = 18, "buffer-discarded", drop;
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
    /// The next hop is a pod under the same master: TC, which can deliver to it, decides. Never counted.
    PassLocal = 37, "pass-local", pass;
    /// Headers that XDP cannot read: the driver has put them behind the first fragment of the frame.
    PassHeadersHidden = 46, "pass-headers-hidden", pass;
    /// An Echo Request that was answered for the pod (`gtpu.echo`).
    EchoAnswered = 48, "echo-answered", pass;
}

/// The outcome for one packet. A packet is never half-rewritten: `Pass` leaves it as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
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
    /// To a pod under the master with this index in the device map: received there, instead of sent.
    Deliver {
        port: u32,
    },
    /// Not forwarded, but turned into an answer, which goes out by the master with this index in the device
    /// map, or, if that is `NO_INDEX`, by the interface that the packet came in by. With [`Packed::LOCAL`] it
    /// is delivered under the master.
    Answer {
        network: u16,
        reason: Reason,
        port: u32,
    },
    Drop {
        network: u16,
        reason: Reason,
    },
    /// To be answered, if this frame could be ([`crate::frame::Frame::ANSWERS`]).
    ToAnswer {
        network: u16,
        reason: Reason,
    },
    /// Ours, but not yet a packet as on a wire ([`crate::frame::Frame::prepare`]): the kernel makes it so, and
    /// each packet of it is decided on then.
    Unfinished,
    /// Of a session with rules: the program that has them decides ([`crate::frame::Frame::RULES`]).
    ToRules {
        network: u16,
    },
    /// Kept by the agent, which gives it back or counts why not.
    Buffered,
}

/// A verdict in one word, as the programs hand it on. Every bit is defined whatever the verdict is: of an enum,
/// the compiler works on fields that the variant at hand does not have, and the verifier refuses that.
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Packed(u64);

/// Which [`Verdict`] an [`Packed`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Pass = 0,
    PassCounted = 1,
    Transmit = 2,
    Redirect = 3,
    Answer = 4,
    Drop = 5,
    ToAnswer = 6,
    Unfinished = 7,
    ToRules = 8,
    Buffered = 9,
}

impl Packed {
    pub const PASS: Self = Self::new(Kind::Pass, 0, 0, 0);
    pub const TRANSMIT: Self = Self::new(Kind::Transmit, 0, 0, 0);
    pub const UNFINISHED: Self = Self::new(Kind::Unfinished, 0, 0, 0);
    pub const BUFFERED: Self = Self::new(Kind::Buffered, 0, 0, 0);

    #[inline(always)]
    const fn new(kind: Kind, reason: u8, network: u16, port: u32) -> Self {
        Self(kind as u64 | (reason as u64) << 8 | (network as u64) << 16 | (port as u64) << 32)
    }

    #[inline(always)]
    pub const fn pass_counted(network: u16, reason: Reason) -> Self {
        Self::new(Kind::PassCounted, reason as u8, network, 0)
    }

    #[inline(always)]
    pub const fn redirect(port: u32) -> Self {
        Self::new(Kind::Redirect, 0, 0, port)
    }

    /// Bit of the port of a redirect or an answer: to a pod under that master.
    pub const LOCAL: u32 = 1 << 31;

    #[inline(always)]
    pub const fn deliver(port: u32) -> Self {
        Self::redirect(port | Self::LOCAL)
    }

    #[inline(always)]
    pub const fn answer(network: u16, reason: Reason, port: u32) -> Self {
        Self::new(Kind::Answer, reason as u8, network, port)
    }

    #[inline(always)]
    pub const fn drop(network: u16, reason: Reason) -> Self {
        Self::new(Kind::Drop, reason as u8, network, 0)
    }

    #[inline(always)]
    pub const fn to_answer(network: u16, reason: Reason) -> Self {
        Self::new(Kind::ToAnswer, reason as u8, network, 0)
    }

    /// Without a reason: should the other program not be there, it is counted as none.
    #[inline(always)]
    pub const fn to_rules(network: u16) -> Self {
        Self::new(Kind::ToRules, 0, network, 0)
    }

    #[inline(always)]
    pub const fn kind(self) -> Kind {
        match self.0 as u8 {
            1 => Kind::PassCounted,
            2 => Kind::Transmit,
            3 => Kind::Redirect,
            4 => Kind::Answer,
            5 => Kind::Drop,
            6 => Kind::ToAnswer,
            7 => Kind::Unfinished,
            8 => Kind::ToRules,
            9 => Kind::Buffered,
            _ => Kind::Pass,
        }
    }

    /// Bits that are no verdict.
    pub const NONE: u64 = u64::MAX;

    /// As a BPF function can return it.
    #[inline(always)]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// What [`Packed::bits`] gave, or [`Packed::NONE`].
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        if bits == Self::NONE { None } else { Some(Self(bits)) }
    }

    /// Number of the [`Reason`], 0 where the verdict has none.
    #[inline(always)]
    pub const fn reason_number(self) -> u8 {
        (self.0 >> 8) as u8
    }

    #[inline(always)]
    pub const fn network(self) -> u16 {
        (self.0 >> 16) as u16
    }

    #[inline(always)]
    pub const fn port(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl From<Packed> for Verdict {
    fn from(it: Packed) -> Self {
        let (network, port) = (it.network(), it.port());
        let reason = Reason::from_number(it.reason_number()).unwrap_or(Reason::Malformed);
        match it.kind() {
            Kind::Pass => Self::Pass,
            Kind::PassCounted => Self::PassCounted { network, reason },
            Kind::Transmit => Self::Transmit,
            Kind::Redirect if port & Packed::LOCAL != 0 => Self::Deliver { port: port & !Packed::LOCAL },
            Kind::Redirect => Self::Redirect { port },
            Kind::Answer => Self::Answer { network, reason, port },
            Kind::Drop => Self::Drop { network, reason },
            Kind::ToAnswer => Self::ToAnswer { network, reason },
            Kind::Unfinished => Self::Unfinished,
            Kind::ToRules => Self::ToRules { network },
            Kind::Buffered => Self::Buffered,
        }
    }
}
