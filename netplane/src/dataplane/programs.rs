//! The programs of the object: loading them, and letting them find each other.

use aya::Ebpf;
use aya::maps::{MapError, ProgramArray};
use aya::programs::{ProgramError, ProgramFd, SchedClassifier, Xdp};

/// On a master, in the driver or on socket buffers.
pub const XDP_PROGRAM: &str = "netplane_xdp";
const XDP_ANSWER_PROGRAM: &str = "netplane_xdp_answer";
const XDP_RULES_PROGRAM: &str = "netplane_xdp_rules";
/// On the ingress of a master without XDP, and at the far end of the offload wire.
pub const TC_PROGRAM: &str = "netplane_tc";
/// On the ingress of a master beside native XDP.
pub const TC_LOCAL_PROGRAM: &str = "netplane_tc_local";
const TC_ANSWER_PROGRAM: &str = "netplane_tc_answer";
const TC_RULES_PROGRAM: &str = "netplane_tc_rules";

/// Why a program cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{0} is not in the object")]
    Missing(&'static str),
    #[error("cannot load the program {0} into the kernel")]
    Program(&'static str, #[source] ProgramError),
    #[error("cannot put a program into the map {0}")]
    Map(&'static str, #[source] MapError),
}

/// Loads the XDP programs.
///
/// # Errors
/// The kernel's verifier refuses one, or a map is of other programs.
pub fn load_xdp(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    for name in [XDP_PROGRAM, XDP_ANSWER_PROGRAM, XDP_RULES_PROGRAM] {
        let program = xdp(ebpf, name)?;
        loaded(|| program.load()).map_err(|it| LoadError::Program(name, it))?;
    }
    for (map, name) in [("XDP_ANSWER_FRAGS", XDP_ANSWER_PROGRAM), ("XDP_RULES", XDP_RULES_PROGRAM)] {
        let program = xdp(ebpf, name)?.fd().and_then(|it| Ok(it.try_clone()?));
        let_call(ebpf, map, &program.map_err(|it| LoadError::Program(name, it))?)?;
    }
    Ok(())
}

/// Loads the TC programs. What an earlier attempt has loaded stays.
///
/// # Errors
/// As for [`load_xdp`].
pub fn load_tc(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    for name in [TC_PROGRAM, TC_LOCAL_PROGRAM, TC_ANSWER_PROGRAM, TC_RULES_PROGRAM] {
        let program = classifier(ebpf, name)?;
        loaded(|| program.load()).map_err(|it| LoadError::Program(name, it))?;
    }
    for (map, name) in [("TC_ANSWER", TC_ANSWER_PROGRAM), ("TC_RULES", TC_RULES_PROGRAM)] {
        let program = classifier(ebpf, name)?.fd().and_then(|it| Ok(it.try_clone()?));
        let_call(ebpf, map, &program.map_err(|it| LoadError::Program(name, it))?)?;
    }
    Ok(())
}

/// Loads a program. One that is loaded already stays: others may have been refused after it. The verifier gives up
/// with `EAGAIN` where a signal waits for the thread, and is asked again, as libbpf does it.
pub(super) fn loaded(load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    let is_interrupted = |error: &ProgramError| match error {
        ProgramError::LoadError { io_error, .. } => io_error.raw_os_error() == Some(libc::EAGAIN),
        _ => false,
    };
    match again(load, is_interrupted) {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        other => other,
    }
}

/// Tries it as often as libbpf does, for as long as it is only interrupted.
fn again<E>(mut load: impl FnMut() -> Result<(), E>, is_interrupted: impl Fn(&E) -> bool) -> Result<(), E> {
    const ATTEMPTS: usize = 5;
    let mut result = load();
    for _ in 1..ATTEMPTS {
        match &result {
            Err(error) if is_interrupted(error) => result = load(),
            _ => break,
        }
    }
    result
}

/// Puts a program where the others look for it.
fn let_call(ebpf: &mut Ebpf, map: &'static str, program: &ProgramFd) -> Result<(), LoadError> {
    let programs = ebpf.map_mut(map).ok_or(LoadError::Missing(map))?;
    let set = ProgramArray::try_from(programs).and_then(|mut it| it.set(0, program, 0));
    set.map_err(|it| LoadError::Map(map, it))
}

/// An XDP program of the object.
pub(super) fn xdp<'e>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut Xdp, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing(name))?;
    program.try_into().map_err(|it| LoadError::Program(name, it))
}

/// A TC program of the object.
pub(super) fn classifier<'e>(
    ebpf: &'e mut Ebpf,
    name: &'static str,
) -> Result<&'e mut SchedClassifier, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing(name))?;
    program.try_into().map_err(|it| LoadError::Program(name, it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_only_interrupted_is_tried_again_but_not_for_ever() {
        let mut answers = vec![Ok(()), Err(libc::EAGAIN), Err(libc::EAGAIN)];
        assert_eq!(again(|| answers.pop().unwrap_or(Ok(())), |it| *it == libc::EAGAIN), Ok(()));
        assert!(answers.is_empty(), "tried three times");
        for (error, expected) in [(libc::EAGAIN, 5), (libc::EACCES, 1)] {
            let mut attempts = 0;
            let load = || {
                attempts += 1;
                Err(error)
            };
            assert_eq!(again(load, |it| *it == libc::EAGAIN), Err(error));
            assert_eq!(attempts, expected);
        }
    }
}
