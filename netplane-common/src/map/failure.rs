//! Packets that were to leave by a master and did not: the kernel, not the decision, has dropped them. Tracing
//! programs count them by what the kernel says of each.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Between which masters a packet was lost, and why. The value counts packets, per CPU.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FailureKey {
    /// Interface index of the master that it came in by.
    pub from: u32,
    /// Of the one that it was to leave by.
    pub to: u32,
    /// A [`Failure`] as its number.
    pub failure: u32,
}

macro_rules! failures {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why the kernel has lost a packet that was to leave. The numbers are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Failure { $($(#[doc = $doc])+ $variant = $number,)+ }

        impl Failure {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in metrics and `status`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One sentence for people.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

failures! {
    /// The kernel gives a reason that has no name here.
    Other = 0, "other";
    /// The driver takes no redirected frames (`ndo_xdp_xmit`), or none of several buffers.
    NotSupported = 1, "not-supported";
    /// The frame is longer than the master's MTU.
    TooLong = 2, "too-long";
    /// The master is down.
    LinkDown = 3, "link-down";
    /// The driver takes none now: it has no queue for them, or the other end of a veth is down.
    NotReady = 4, "not-ready";
    /// The driver's queue was full.
    QueueFull = 5, "queue-full";
    /// The master has vanished.
    NoDevice = 6, "no-device";
    /// The driver could not send a frame back out of the master that it came in by (XDP_TX).
    Transmit = 7, "transmit";
    /// The packet program was aborted.
    Aborted = 8, "aborted";
}

/// Error numbers of Linux, the same on all architectures that matter here but for a few.
mod errno {
    pub(super) const ENOENT: i32 = 2;
    pub(super) const ENXIO: i32 = 6;
    pub(super) const EAGAIN: i32 = 11;
    pub(super) const ENOMEM: i32 = 12;
    pub(super) const EBUSY: i32 = 16;
    pub(super) const ENODEV: i32 = 19;
    pub(super) const ENOSPC: i32 = 28;
    pub(super) const EMSGSIZE: i32 = 90;
    pub(super) const EOPNOTSUPP: i32 = 95;
    pub(super) const ENETDOWN: i32 = 100;
    pub(super) const ENOBUFS: i32 = 105;
}

impl Failure {
    /// What an error of a redirect means: a negative number, as the kernel traces it. Zero: the driver has taken
    /// fewer frames than it was given, and named no error.
    #[inline(always)]
    pub const fn of_error(error: i32) -> Self {
        match error.wrapping_neg() {
            0 | errno::ENOSPC | errno::EBUSY | errno::ENOBUFS | errno::EAGAIN | errno::ENOMEM => {
                Self::QueueFull
            }
            errno::EOPNOTSUPP => Self::NotSupported,
            errno::EMSGSIZE => Self::TooLong,
            errno::ENETDOWN => Self::LinkDown,
            errno::ENXIO => Self::NotReady,
            errno::ENODEV | errno::ENOENT => Self::NoDevice,
            _ => Self::Other,
        }
    }

    /// From a number that a program has written.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.iter().find(|it| **it as u32 == number).copied()
    }
}

const _: () = assert!(size_of::<FailureKey>() == 12);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_names() {
        let name = |error| Failure::of_error(error).name();
        assert_eq!([name(-95), name(-90), name(-100)], ["not-supported", "too-long", "link-down"]);
        assert_eq!([name(-6), name(0), name(-28)], ["not-ready", "queue-full", "queue-full"]);
        assert_eq!([name(-1), name(i32::MIN)], ["other", "other"]);
        for failure in Failure::ALL {
            assert_eq!(Failure::from_number(*failure as u32), Some(*failure));
        }
        assert_eq!(Failure::from_number(9), None);
    }
}
