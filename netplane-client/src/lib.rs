//! Client of netplane's session API: a UPF hands its forwarding rules to the agent of its node, over a Unix
//! socket that is mounted into its pod. [`v1`] has the messages, as `proto/netplane/v1/sessions.proto` has them;
//! [`Client`] loads sessions in bulk, changes single ones and reads them back.
//!
//! ```no_run
//! use netplane_client::{Client, DEFAULT_SOCKET, Plain};
//!
//! # async fn example() -> Result<(), netplane_client::Error> {
//! let mut client = Client::connect(DEFAULT_SOCKET).await?;
//! let generation = client.describe("").await?.generation + 1;
//! let session = Plain {
//!     ue: vec!["10.60.0.1".to_owned()],
//!     access: "core/n3".to_owned(),
//!     data: "core/n6".to_owned(),
//!     teid: 0x1001,
//!     local: String::new(),
//!     peer: "10.30.0.10".to_owned(),
//!     peer_teid: 0x2001,
//!     qfi: Some(9),
//! };
//! client.put("", generation, [session.session("ue-1")]).await?;
//! client.sweep("", generation).await?;
//! # Ok(())
//! # }
//! ```

mod client;
#[rustfmt::skip]
#[allow(clippy::all, clippy::allow_attributes_without_reason, clippy::too_many_lines, unreachable_pub, unused_qualifications, missing_docs, reason = "it is generated")]
mod generated;
mod plain;

pub use client::{BATCH, Client, Error, Refused};
pub use plain::Plain;

/// The messages of package `netplane.v1`.
pub mod v1 {
    pub use crate::generated::*;
}

/// Where the agent listens unless it is told otherwise. Mount the folder into a pod, not the socket: an agent
/// that starts anew makes a new one.
pub const DEFAULT_SOCKET: &str = "/run/netplane/sessions/sessions.sock";
