//! Frames in fragments (XDP multi-buffer): the XDP programs take them, where the kernel lets a program do so
//! (Linux 5.18). Else a driver refuses the programs on a master with an MTU beyond what fits a page.

use super::LoadError;
use aya::programs::ProgramError;
use aya::{EbpfError, EbpfLoader};
use std::borrow::Cow;

/// What the programs are loaded for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragments {
    /// Frames in fragments as well.
    #[default]
    Taken,
    /// Frames that are in one piece.
    Refused,
}

/// Said to the programs: see `FRAGMENTS` in `netplane-ebpf`.
const VARIABLE: &str = "FRAGMENTS";
const REFUSED: u32 = 0;

/// The name of the programs' section, by which a loader sets their flag (`BPF_F_XDP_HAS_FRAGS`), where it ends in
/// the file's tables of strings; and that of programs without it, of the same length.
const SECTION: &[u8] = b"xdp.frags\0";
const PLAIN_SECTION: &[u8] = b"xdp\0frags\0";

impl Fragments {
    /// Loads the object's maps with this loader, for programs of this kind.
    ///
    /// # Errors
    /// The kernel refuses a map.
    pub(super) fn load(self, loader: &mut EbpfLoader<'_>) -> Result<aya::Ebpf, EbpfError> {
        match self {
            Self::Taken => loader.load(super::object()),
            Self::Refused => {
                loader.override_global(VARIABLE, &REFUSED, true).load(&without_flag(super::object()))
            }
        }
    }

    /// Whether this may be what the kernel has against a program: older ones do not know the flag.
    pub(super) fn are_refused(self, error: &(dyn std::error::Error + 'static)) -> bool {
        let number = match error.downcast_ref::<LoadError>() {
            Some(LoadError::Program(_, ProgramError::LoadError { io_error, .. })) => io_error.raw_os_error(),
            _ => None,
        };
        self == Self::Taken && number == Some(libc::EINVAL)
    }
}

/// The object with its XDP programs in the section of those that take frames in one piece only.
fn without_flag(object: &[u8]) -> Cow<'_, [u8]> {
    let mut object = Cow::Borrowed(object);
    let mut from = 0;
    while let Some(found) = object[from..].windows(SECTION.len()).position(|it| it == SECTION) {
        let at = from + found;
        object.to_mut()[at..at + SECTION.len()].copy_from_slice(PLAIN_SECTION);
        from = at + SECTION.len();
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_section_change() {
        let object = b"\0.relxdp.frags\0.BTF\0xdp.frags/devmap\0";
        assert_eq!(*without_flag(object), *b"\0.relxdp\0frags\0.BTF\0xdp.frags/devmap\0");
        assert!(matches!(without_flag(b"xdp\0"), Cow::Borrowed(_)));
        let real = without_flag(super::super::object());
        assert!(matches!(real, Cow::Owned(_)), "the programs are not in the section for fragments");
    }
}
