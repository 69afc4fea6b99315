//! The kernel's own GTP-U (module `gtp`, since Linux 4.7) as a peer that nobody here has written: a device, its
//! tunnels by generic netlink, and Echo. Numbers are those of linux/gtp.h; attributes
//! are in the machine's byte order but for addresses.

use super::Namespace;
use anyhow::{Context, Result, bail};
use netlink_packet_generic::ctrl::nlas::{GenlCtrlAttrs, McastGrpAttrs};
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, Nla,
    NlaBuffer, NlasIterator, Parseable, ParseableParametrized,
};
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use std::net::Ipv4Addr;

/// Commands (`enum gtp_genl_cmds`).
const NEW_PDP: u8 = 0;
const ECHO_REQUEST: u8 = 3;

/// Attributes (`enum gtp_attrs`).
const LINK: u16 = 1;
const VERSION: u16 = 2;
const PEER_ADDRESS: u16 = 4;
const MS_ADDRESS: u16 = 5;
const LOCAL_TEID: u16 = 8;
const PEER_TEID: u16 = 9;

const GTP_V1: u32 = 1;

/// A device of type `gtp`. It goes with its namespace.
#[derive(Debug)]
pub struct GtpDevice<'a> {
    namespace: &'a Namespace,
    name: &'static str,
}

/// One user's tunnel.
#[derive(Clone, Copy, Debug)]
pub struct PdpContext {
    /// The user.
    pub ue: Ipv4Addr,
    /// TEID of what is received here.
    pub local_teid: u32,
    pub peer: Ipv4Addr,
    /// TEID of what is sent to the peer.
    pub peer_teid: u32,
}

/// Which end of the tunnels a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GtpRole {
    /// The users' side, which a gNB is to its UPF: a tunnel is found by the source of what is to be sent.
    Sgsn,
    /// The data network's side, which a UPF is: by its destination.
    Ggsn,
}

impl<'a> GtpDevice<'a> {
    /// Makes the device with the sockets of GTP-U on all addresses.
    ///
    /// # Errors
    /// The kernel has no such devices.
    pub fn create(namespace: &'a Namespace, name: &'static str, role: GtpRole, mtu: u16) -> Result<Self> {
        let role = match role {
            GtpRole::Sgsn => "sgsn",
            GtpRole::Ggsn => "ggsn",
        };
        let script = format!("link add {name} type gtp role {role}\nlink set {name} mtu {mtu} up");
        namespace.ip(&script).context("a GTP device (module gtp)")?;
        Ok(Self { namespace, name })
    }

    /// Adds a tunnel.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn add(&self, context: &PdpContext) -> Result<()> {
        let attributes = vec![
            self.link()?,
            number(VERSION, GTP_V1),
            number(LOCAL_TEID, context.local_teid),
            number(PEER_TEID, context.peer_teid),
            address(MS_ADDRESS, context.ue),
            address(PEER_ADDRESS, context.peer),
        ];
        let client = self.namespace.run(Client::open)??;
        let message = Gtp { command: NEW_PDP, attributes };
        client.acknowledged(client.gtp, message, NLM_F_CREATE | NLM_F_EXCL).context("add a PDP context")?;
        Ok(())
    }

    /// Sends an Echo Request from `local`, and returns the address whose Echo Response the kernel took.
    ///
    /// # Errors
    /// None comes within five seconds.
    pub fn echo(&self, local: Ipv4Addr, peer: Ipv4Addr) -> Result<Ipv4Addr> {
        let attributes = vec![
            self.link()?,
            number(VERSION, GTP_V1),
            address(MS_ADDRESS, local),
            address(PEER_ADDRESS, peer),
        ];
        let mut client = self.namespace.run(Client::open)??;
        // Responses are told to who listens.
        let listener = self.namespace.run(Client::open)??;
        listener.socket.add_membership(client.group()?).context("listen for Echo Responses")?;
        client
            .acknowledged(client.gtp, Gtp { command: ECHO_REQUEST, attributes }, 0)
            .context("Echo Request")?;
        let told: Vec<GenlMessage<Gtp>> = listener.receive().context("no Echo Response")?;
        let from = told.iter().flat_map(|it| &it.payload.attributes).filter(|it| it.kind() == PEER_ADDRESS);
        let octets = from.map(value).next().context("an Echo Response from nobody")?;
        let octets: [u8; 4] = octets.try_into().ok().context("an address that is not IPv4")?;
        Ok(octets.into())
    }

    fn link(&self) -> Result<DefaultNla> {
        let index = self.namespace.run(|| nix::net::if_::if_nametoindex(self.name))?;
        Ok(number(LINK, index.with_context(|| format!("no interface {}", self.name))?))
    }
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_ne_bytes().to_vec())
}

fn address(kind: u16, value: Ipv4Addr) -> DefaultNla {
    DefaultNla::new(kind, value.octets().to_vec())
}

fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    value
}

/// A message of the family `gtp`.
#[derive(Clone, Debug)]
struct Gtp {
    command: u8,
    attributes: Vec<DefaultNla>,
}

impl GenlFamily for Gtp {
    fn family_name() -> &'static str {
        "gtp"
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        0
    }
}

impl Emitable for Gtp {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Gtp {
    fn parse_with_param(bytes: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(bytes)
            .map(|it| it.and_then(|it: NlaBuffer<&[u8]>| DefaultNla::parse(&it)))
            .collect::<Result<_, _>>()?;
        Ok(Self { command: header.cmd, attributes })
    }
}

/// A socket of generic netlink, and what the kernel says of the family `gtp`.
struct Client {
    socket: Socket,
    gtp: u16,
    about_gtp: Vec<GenlCtrlAttrs>,
}

impl Client {
    fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC).context("a socket of generic netlink")?;
        socket.bind_auto().context("bind it")?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(5, 0))?;
        let mut client = Self { socket, gtp: 0, about_gtp: Vec::new() };
        let nlas = vec![GenlCtrlAttrs::FamilyName(Gtp::family_name().to_owned())];
        let request = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas };
        let answer = client.acknowledged(0, request, 0).context("the kernel's generic netlink family gtp")?;
        client.about_gtp = answer.into_iter().flat_map(|it: GenlMessage<GenlCtrl>| it.payload.nlas).collect();
        let id = client.about_gtp.iter().find_map(|it| match it {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        });
        client.gtp = id.context("the family gtp has no number")?;
        Ok(client)
    }

    /// The family's one group of listeners.
    fn group(&mut self) -> Result<u32> {
        let groups = self.about_gtp.iter().filter_map(|it| match it {
            GenlCtrlAttrs::McastGroups(groups) => Some(groups),
            _ => None,
        });
        let ids = groups.flatten().flatten().filter_map(|it| match it {
            McastGrpAttrs::Id(id) => Some(*id),
            McastGrpAttrs::Name(_) => None,
        });
        ids.into_iter().next().context("the family gtp has no group")
    }

    /// Sends a request, and returns what comes before the kernel's acknowledgement.
    fn acknowledged<F>(&self, family: u16, payload: F, flags: u16) -> Result<Vec<GenlMessage<F>>>
    where
        F: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + std::fmt::Debug,
    {
        let mut message = GenlMessage::from_payload(payload);
        message.set_resolved_family_id(family);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).context("send")?;
        self.until_acknowledged()
    }

    fn until_acknowledged<F>(&self) -> Result<Vec<F>>
    where
        F: NetlinkDeserializable + NetlinkSerializable + std::fmt::Debug,
    {
        let mut answers = Vec::new();
        loop {
            for payload in self.payloads()? {
                match payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                    other => bail!("unexpected: {other:?}"),
                }
            }
        }
    }

    /// What comes next.
    fn receive<F>(&self) -> Result<Vec<F>>
    where
        F: NetlinkDeserializable + NetlinkSerializable + std::fmt::Debug,
    {
        let messages = self.payloads()?.into_iter().filter_map(|it| match it {
            NetlinkPayload::InnerMessage(message) => Some(message),
            _ => None,
        });
        Ok(messages.collect())
    }

    /// The messages of one datagram.
    fn payloads<F>(&self) -> Result<Vec<NetlinkPayload<F>>>
    where
        F: NetlinkDeserializable + NetlinkSerializable + std::fmt::Debug,
    {
        let (bytes, _) = self.socket.recv_from_full().context("receive")?;
        let (mut payloads, mut at) = (Vec::new(), 0);
        while let Some(rest) = bytes.get(at..).filter(|it| !it.is_empty()) {
            let message = NetlinkMessage::<F>::deserialize(rest).context("a message of generic netlink")?;
            // Messages begin at multiples of four.
            at += (message.header.length as usize).next_multiple_of(4);
            payloads.push(message.payload);
        }
        Ok(payloads)
    }
}
