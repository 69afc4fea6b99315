//! What the kernel says of XDP on a device (IFLA_XDP).

use futures::TryStreamExt;
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp, XdpAttached};
use std::io;

/// XDP on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// A program runs in the driver (native).
    pub driver: bool,
    /// A program runs on socket buffers (generic).
    pub generic: bool,
    /// The kernel's identifier of the program.
    pub program: Option<u32>,
}

/// What is attached to the device with this index, in the calling thread's namespace.
///
/// # Errors
/// No netlink, or no such device.
pub fn attached(ifindex: u32) -> io::Result<Attached> {
    // A runtime of its own on a thread of its own: the caller may be inside one.
    std::thread::scope(|scope| {
        let query = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            runtime.block_on(query(ifindex))
        };
        scope.spawn(query).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

async fn query(ifindex: u32) -> io::Result<Attached> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let request = async {
        let mut links = handle.link().get().match_index(ifindex).execute();
        links
            .try_next()
            .await
            .map_err(io::Error::other)?
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    };
    let link = tokio::select! {
        link = request => link?,
        () = connection => return Err(io::Error::other("the netlink connection ended")),
    };
    let attributes = link.attributes.iter().find_map(|it| match it {
        LinkAttribute::Xdp(attributes) => Some(attributes.as_slice()),
        _ => None,
    });
    let mut attached = Attached::default();
    for attribute in attributes.unwrap_or_default() {
        match attribute {
            LinkXdp::Attached(XdpAttached::Driver | XdpAttached::Hardware) => attached.driver = true,
            LinkXdp::Attached(XdpAttached::SocketBuffer) => attached.generic = true,
            LinkXdp::ProgId(id) if *id != 0 => attached.program = Some(*id),
            _ => {}
        }
    }
    Ok(attached)
}
