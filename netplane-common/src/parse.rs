//! Finding one's way to the bytes that the decision needs. Reads, never writes.

use crate::frame::Frame;
use crate::verdict::Reason;
use crate::wire::gtpu::{Gtpu, GtpuOptional, PduSessionContainer, extension};

/// Extension headers in a chain that are looked at; TS 29.281 defines fewer kinds than this.
const MAX_EXTENSION_HEADERS: usize = 8;

/// Where the T-PDU behind a GTP-U header at `at` starts.
///
/// # Errors
/// `Malformed` for a chain that leaves the frame, is longer than any real one or has a header of length
/// zero; `PassExtensionHeader` for a header that must be understood and is not (TS 29.281 §5.2.1).
#[inline(always)]
pub(crate) fn payload_offset<F: Frame>(frame: &F, at: usize, gtpu: Gtpu) -> Result<usize, Reason> {
    let mut offset = at + Gtpu::LEN;
    if !gtpu.has_optional() {
        return Ok(offset);
    }
    // TS 29.281 §5.1: one flag brings all four bytes; those not flagged are not evaluated.
    let optional: GtpuOptional = frame.load(offset).ok_or(Reason::Malformed)?;
    offset += GtpuOptional::LEN;
    if !gtpu.has_extension() {
        return Ok(offset);
    }
    let mut kind = optional.next_extension;
    for _ in 0..MAX_EXTENSION_HEADERS {
        if kind == extension::NONE {
            return Ok(offset);
        }
        if extension::comprehension_required(kind) && kind != extension::PDU_SESSION_CONTAINER {
            return Err(Reason::PassExtensionHeader);
        }
        let words: u8 = frame.load(offset).ok_or(Reason::Malformed)?;
        if words == 0 {
            return Err(Reason::Malformed);
        }
        offset += usize::from(words) * 4;
        kind = frame.load(offset - 1).ok_or(Reason::Malformed)?;
    }
    if kind == extension::NONE { Ok(offset) } else { Err(Reason::Malformed) }
}

/// The QFI of the first PDU Session Container behind a GTP-U header at `at`, whose chain
/// [`payload_offset`] has found sound. The QFI is in the same place in both types of PDU (TS 38.415 §5.5.2).
#[inline(always)]
pub(crate) fn qfi<F: Frame>(frame: &F, at: usize, gtpu: Gtpu) -> Option<u8> {
    let mut offset = at + Gtpu::LEN;
    if !gtpu.has_extension() {
        return None;
    }
    let mut kind = frame.load::<GtpuOptional>(offset)?.next_extension;
    offset += GtpuOptional::LEN;
    for _ in 0..MAX_EXTENSION_HEADERS {
        if kind == extension::PDU_SESSION_CONTAINER {
            let container: PduSessionContainer = frame.load(offset)?;
            return Some(container.qfi & PduSessionContainer::QFI_MASK);
        }
        let words: u8 = frame.load(offset)?;
        if kind == extension::NONE || words == 0 {
            return None;
        }
        offset += usize::from(words) * 4;
        kind = frame.load(offset - 1)?;
    }
    None
}
