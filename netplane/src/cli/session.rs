//! `netplane session`: what a UPF does through the session API, by hand.
#![expect(clippy::print_stdout, reason = "a command talks to the person who runs it")]

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use netplane_client::v1::{
    Gate, Interface, RemoteGtpuPeer, SdfFilter, SessionState, State, Urr, UsageReport, Volume, VolumeLimit,
    watch_response,
};
use netplane_client::{Client, Plain, Refused};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct SessionArguments {
    #[arg(long, global = true, default_value = netplane_client::DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Whose sessions: namespace/name. Root on the node names a pod; within a pod it is that pod.
    #[arg(long, global = true, default_value = "")]
    pod: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Who the caller is, what it may use, and what is known of its sessions.
    Describe,
    /// Make a session what is given, whatever it was.
    Add(AddArguments),
    List,
    Show {
        id: String,
    },
    /// Remove sessions; ids that there are not are no error.
    Delete {
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Remove all sessions of other generations than this one.
    Sweep {
        generation: u64,
    },
    /// Print what happens, until interrupted.
    Watch,
}

#[derive(Args)]
struct AddArguments {
    id: String,
    /// An IPv4 address or IPv6 /64 of the user.
    #[arg(long, required = true)]
    ue: Vec<String>,
    /// NAD on which the tunnel ends: namespace/name.
    #[arg(long)]
    access: String,
    /// NAD of the data network: namespace/name.
    #[arg(long)]
    data: String,
    /// Local TEID, also as 0x1001; without it the agent gives one.
    #[arg(long, value_parser = super::trace::teid, default_value = "0")]
    teid: u32,
    /// The address at which the tunnel ends; all of the pod's on the network, if not given.
    #[arg(long, default_value = "")]
    local: String,
    /// The peer's address; without it downlink packets are dropped.
    #[arg(long, requires = "peer_teid", default_value = "")]
    peer: String,
    #[arg(long, value_parser = super::trace::teid, default_value = "0")]
    peer_teid: u32,
    /// In downlink G-PDUs.
    #[arg(long)]
    qfi: Option<u32>,
    #[arg(long, default_value_t = 0)]
    generation: u64,
}

pub(super) fn run(arguments: SessionArguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::connect(&arguments.socket).await;
        let client = client.with_context(|| "is the agent running?")?;
        call(client, arguments.pod, arguments.verb).await
    })
}

async fn call(mut client: Client, pod: String, verb: Verb) -> Result<()> {
    match verb {
        Verb::Describe => {
            let it = client.describe(&pod).await?;
            let endpoint = |it: &netplane_client::v1::Endpoint| json!({ "networkInstance": it.network_instance, "interface": it.interface, "addresses": it.addresses, "failedPeers": it.failed_peers });
            let endpoints: Vec<Value> = it.endpoints.iter().map(endpoint).collect();
            let text = json!({
                "pod": it.pod, "instance": it.instance, "generation": it.generation, "sessions": it.sessions,
                "quota": it.quota, "capacity": it.capacity, "endpoints": endpoints,
            });
            println!("{text:#}");
        }
        Verb::Add(add) => {
            let plain = Plain {
                ue: add.ue,
                access: add.access,
                data: add.data,
                teid: add.teid,
                local: add.local,
                peer: add.peer,
                peer_teid: add.peer_teid,
                qfi: add.qfi,
            };
            nothing_refused(client.put(&pod, add.generation, [plain.session(add.id)]).await?)?;
        }
        Verb::List => {
            let mut sessions = client.list(&pod).await?;
            let id = |it: &SessionState| it.session.as_ref().map(|it| it.id.clone()).unwrap_or_default();
            sessions.sort_by_key(id);
            for session in &sessions {
                println!("{}", shown(session));
            }
        }
        Verb::Show { id } => println!("{:#}", shown(&client.get(&pod, &id).await?)),
        Verb::Delete { ids } => {
            let (removed, refused) = client.delete(&pod, ids).await?;
            nothing_refused(refused)?;
            println!("{removed} removed");
        }
        Verb::Sweep { generation } => println!("{} removed", client.sweep(&pod, generation).await?),
        Verb::Watch => {
            let mut events = client.watch(&pod).await?;
            while let Some(event) = events.message().await? {
                match event.event {
                    Some(watch_response::Event::Put(id)) => println!("put {id}"),
                    Some(watch_response::Event::Deleted(id)) => println!("deleted {id}"),
                    Some(watch_response::Event::Lost(events)) => println!("lost {events}"),
                    Some(watch_response::Event::Gtpu(it)) => println!(
                        "{} on {} at {} from {}, TEID {:#x}",
                        it.kind().as_str_name().trim_start_matches("GTPU_EVENT_KIND_").to_lowercase(),
                        it.network_instance,
                        it.local_address,
                        it.peer_address,
                        it.teid
                    ),
                    Some(watch_response::Event::UsageReport(it)) => println!("usage {}", report(&it)),
                    Some(watch_response::Event::DownlinkData(it)) => {
                        let qfi = it.qfi.map(|it| format!(", QFI {it}")).unwrap_or_default();
                        println!("data for {} by PDR {}, DSCP {}{qfi}", it.session_id, it.pdr_id, it.dscp);
                    }
                    Some(watch_response::Event::UserPlanePathFailure(it)) => {
                        it.remote_gtpu_peers.iter().for_each(|it| println!("path failure {}", peer(it)));
                    }
                    Some(watch_response::Event::UserPlanePathRecovery(it)) => {
                        it.remote_gtpu_peers.iter().for_each(|it| println!("path recovery {}", peer(it)));
                    }
                    None => {}
                }
            }
            bail!("the agent has ended the stream");
        }
    }
    Ok(())
}

fn peer(it: &RemoteGtpuPeer) -> String {
    format!("to {} on {} at {}", it.address, it.network_instance, it.local_address)
}

fn nothing_refused(refused: Vec<Refused>) -> Result<()> {
    let lines: Vec<_> = refused
        .iter()
        .map(|it| format!("session {}: {}: {}", it.id, it.code.description(), it.message))
        .collect();
    ensure!(lines.is_empty(), "{}", lines.join("\n"));
    Ok(())
}

/// A session as JSON, in the words of the protobuf file.
fn shown(state: &SessionState) -> Value {
    let session = state.session.clone().unwrap_or_default();
    let volume = |it: &Option<Volume>| {
        let it = it.unwrap_or_default();
        json!({ "packets": it.packets, "bytes": it.bytes })
    };
    let pdr = |it: &netplane_client::v1::Pdr| {
        let pdi = it.pdi.clone().unwrap_or_default();
        let f_teid = pdi.local_f_teid.clone();
        json!({
            "id": it.id, "precedence": it.precedence, "farId": it.far_id, "qerIds": it.qer_ids,
            "sourceInterface": side(pdi.source_interface()), "networkInstance": pdi.network_instance,
            "ueIpAddresses": pdi.ue_ip_addresses, "qfis": pdi.qfis, "urrIds": it.urr_ids,
            "sdfFilters": pdi.sdf_filters.iter().map(filter).collect::<Vec<_>>(),
            "localFTeid": f_teid.map(|it| json!({ "teid": format!("{:#x}", it.teid), "address": it.address })),
        })
    };
    let far = |it: &netplane_client::v1::Far| {
        let parameters = it.forwarding_parameters.clone().map(|it| {
            let outer = it.outer_header_creation.clone();
            json!({
                "destinationInterface": side(it.destination_interface()),
                "networkInstance": it.network_instance,
                "outerHeaderCreation":
                    outer.map(|it| json!({ "teid": format!("{:#x}", it.teid), "address": it.address })),
            })
        });
        json!({ "id": it.id, "applyAction": it.apply_action().as_str_name(), "forwardingParameters": parameters })
    };
    let gate = |it: Gate| if it == Gate::Open { "open" } else { "closed" };
    let qer = |it: &netplane_client::v1::Qer| {
        let (up, down) = (gate(it.uplink_gate()), gate(it.downlink_gate()));
        json!({
            "id": it.id, "uplinkGate": up, "downlinkGate": down, "qfi": it.qfi,
            "uplinkMbr": it.uplink_mbr, "downlinkMbr": it.downlink_mbr,
            "uplinkGbr": it.uplink_gbr, "downlinkGbr": it.downlink_gbr,
        })
    };
    json!({
        "id": session.id, "generation": state.generation,
        "state": match state.state() {
            State::Forwarding => "forwarding",
            State::NextHopUnresolved => "next-hop-unresolved",
            State::NotProgrammed | State::Unspecified => "not-programmed",
        },
        "reason": state.reason, "uplink": volume(&state.uplink), "downlink": volume(&state.downlink),
        "pdrs": session.pdrs.iter().map(pdr).collect::<Vec<_>>(),
        "fars": session.fars.iter().map(far).collect::<Vec<_>>(),
        "qers": session.qers.iter().map(qer).collect::<Vec<_>>(),
        "urrs": session.urrs.iter().map(urr).collect::<Vec<_>>(),
        "usage": state.usage.iter().map(report).collect::<Vec<_>>(),
    })
}

fn filter(it: &SdfFilter) -> Value {
    let class = it.tos_traffic_class.map(|it| format!("{:#04x}/{:#04x}", it.value, it.mask));
    json!({
        "flowDescription": it.flow_description, "tosTrafficClass": class, "sdfFilterId": it.sdf_filter_id,
        "securityParameterIndex": it.security_parameter_index, "flowLabel": it.flow_label,
    })
}

fn urr(it: &Urr) -> Value {
    let limit = |it: &Option<VolumeLimit>| {
        it.map(|it| json!({ "total": it.total, "uplink": it.uplink, "downlink": it.downlink }))
    };
    json!({
        "id": it.id, "volume": it.volume, "duration": it.duration, "measurementPeriod": it.measurement_period,
        "volumeThreshold": limit(&it.volume_threshold), "timeThreshold": it.time_threshold,
        "volumeQuota": limit(&it.volume_quota), "timeQuota": it.time_quota,
    })
}

/// A usage report, in the words of the protobuf file.
fn report(it: &UsageReport) -> Value {
    let volume = |it: &Option<Volume>| {
        let it = it.unwrap_or_default();
        json!({ "packets": it.packets, "bytes": it.bytes })
    };
    json!({
        "sessionId": it.session_id, "urrId": it.urr_id, "sequence": it.sequence,
        "triggers": it.triggers().map(|it| it.as_str_name()).collect::<Vec<_>>(),
        "uplink": volume(&it.uplink), "downlink": volume(&it.downlink), "duration": it.duration,
    })
}

fn side(it: Interface) -> &'static str {
    match it {
        Interface::Access => "access",
        Interface::Core => "core",
        Interface::Unspecified => "unspecified",
    }
}
