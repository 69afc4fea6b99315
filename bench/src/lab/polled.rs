//! A program on a host's end of a wire, so that what the node sends back there arrives.

use super::Namespace;
use crate::load::objects::load;
use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::xdp::{Xdp, XdpMode};

/// Gives a host's end of a wire a program that passes all, until it is dropped. What XDP transmits back (XDP_TX)
/// into a veth is taken out of its ring only where the other end has a program: with GRO alone it waits for what
/// comes by redirect or from the stack, and once the ring is full of answers nothing else gets in any more
/// (`veth_xdp_flush` of drivers/net/veth.c asks for the program). NICs have no such thing.
///
/// # Errors
/// No privilege, or no such interface.
pub fn polled(host: &Namespace, interface: &str) -> Result<Ebpf> {
    host.run(|| {
        let mut ebpf = load(&[])?;
        let program: &mut Xdp = ebpf.program_mut("empty").context("no program empty")?.try_into()?;
        program.load()?;
        program
            .attach(interface, XdpMode::Driver)
            .with_context(|| format!("attach a program to {interface}"))?;
        Ok(ebpf)
    })?
}
