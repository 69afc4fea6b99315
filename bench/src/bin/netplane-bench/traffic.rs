//! `traffic` and `throughput`: scenarios on interfaces of this machine.

use anyhow::Result;
use clap::Args;
use netplane_bench::load::scenario::{Mac, Scenario};
use netplane_bench::load::template::Arrival;
use netplane_bench::load::{Generator, Kind};
use netplane_bench::rates::{self, Effort, Place, Port, Setup, Tester};
use netplane_bench::report::model::Row;
use std::path::PathBuf;
use std::time::Duration;

/// A scenario and what the command line changes of it.
#[derive(Args)]
pub(crate) struct Common {
    /// File of the scenario.
    scenario: PathBuf,
    /// What sends.
    #[arg(long, default_value = "pktgen")]
    generator: Kind,
    /// MAC address of the device under test.
    #[arg(long)]
    destination: Option<Mac>,
    /// CPUs to send from, one thread on each.
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    /// Interface where what comes out of the device is counted.
    #[arg(long)]
    receive: Option<String>,
    /// What the device makes of the frames.
    #[arg(long, default_value = "as-sent")]
    arrival: ArrivalArgument,
    /// Count in generic XDP, where the driver has no native one.
    #[arg(long)]
    generic_sink: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ArrivalArgument {
    /// As they were sent, but for MAC addresses and TTL.
    AsSent,
    /// Without their tunnel: uplink.
    Decapsulated,
    /// In a tunnel over IPv4 with a QFI: downlink.
    Encapsulated,
    /// The same without a QFI.
    EncapsulatedPlain,
    /// In a tunnel over IPv6 with a QFI.
    EncapsulatedIpv6,
}

impl From<ArrivalArgument> for Arrival {
    fn from(argument: ArrivalArgument) -> Self {
        let encapsulated = |is_v4, with_container| Self::Encapsulated { is_v4, with_container };
        match argument {
            ArrivalArgument::AsSent => Self::AsSent,
            ArrivalArgument::Decapsulated => Self::Decapsulated,
            ArrivalArgument::Encapsulated => encapsulated(true, true),
            ArrivalArgument::EncapsulatedPlain => encapsulated(true, false),
            ArrivalArgument::EncapsulatedIpv6 => encapsulated(false, true),
        }
    }
}

#[derive(Args)]
pub(crate) struct TrafficArguments {
    #[command(flatten)]
    common: Common,
    /// Interface that sends.
    #[arg(long)]
    interface: String,
    /// Frames a second, all threads together.
    #[arg(long)]
    rate: Option<f64>,
    /// Frames in all.
    #[arg(long)]
    frames: Option<u64>,
    /// The longest that is sent.
    #[arg(long)]
    seconds: Option<f64>,
}

#[derive(Args)]
pub(crate) struct ThroughputArguments {
    #[command(flatten)]
    common: Common,
    /// Interface that sends.
    #[arg(long)]
    transmit: String,
    /// Length of a trial in seconds.
    #[arg(long, default_value_t = 60.0)]
    trial: f64,
    /// Trials at full load.
    #[arg(long, default_value_t = 3)]
    overloads: usize,
    /// Steps of each search.
    #[arg(long, default_value_t = 10)]
    steps: usize,
}

impl Common {
    fn scenario(&self) -> Result<Scenario> {
        let mut scenario = Scenario::read(&self.scenario)?;
        scenario.ethernet.destination = self.destination.or(scenario.ethernet.destination);
        if !self.cpus.is_empty() {
            scenario.send.cpus.clone_from(&self.cpus);
        }
        Ok(scenario)
    }

    fn setup<'a>(&self, transmit: &'a str, receive: &'a str) -> Setup<'a> {
        let port = |interface| Port { namespace: None, interface };
        Setup {
            transmit: port(transmit),
            receive: port(receive),
            kind: self.generator,
            generic_sink: self.generic_sink,
            arrival: self.arrival.into(),
        }
    }
}

#[expect(clippy::print_stdout, reason = "what was sent is the result")]
pub(crate) fn send(arguments: &TrafficArguments) -> Result<()> {
    let mut scenario = arguments.common.scenario()?;
    scenario.send.rate = arguments.rate.or(scenario.send.rate);
    scenario.send.frames = arguments.frames.or(scenario.send.frames);
    scenario.send.seconds = arguments.seconds.unwrap_or(scenario.send.seconds);
    scenario.check()?;
    let interface = arguments.interface.as_str();
    let Some(receive) = &arguments.common.receive else {
        let sent = Generator::new(arguments.common.generator, interface, &scenario)?.run(scenario.load())?;
        println!("{} frames of {} bytes sent in {:.3} s", sent.frames, sent.bytes, sent.seconds);
        return Ok(());
    };
    let sending = [interface];
    let mut tester = Tester::new(arguments.common.setup(interface, receive), &scenario)?;
    tester.places = vec![Place { name: "tester", namespace: None, interfaces: &sending, with_ip: true }];
    let trial = tester.trial(scenario.load())?;
    println!(
        "{} frames sent in {:.3} s, {} received, {:.0} a second, lost {:.4} %, late {}",
        trial.sent.frames,
        trial.sent.seconds,
        trial.received.frames,
        trial.rate(),
        trial.loss() * 100.0,
        trial.sent.late
    );
    println!("dropped on this machine: {:?}; elsewhere: {}", trial.drops, trial.unaccounted());
    for part in [0.5, 0.9, 0.99, 0.999] {
        if let Some(nanoseconds) = trial.latencies.percentile(part) {
            println!("latency, {} %: {:.1} us", part * 100.0, nanoseconds / 1000.0);
        }
    }
    Ok(())
}

pub(crate) fn throughput(arguments: &ThroughputArguments) -> Result<Vec<Row>> {
    let scenario = arguments.common.scenario()?;
    let receive = arguments.common.receive.clone();
    let receive = receive.ok_or_else(|| anyhow::anyhow!("throughput needs --receive"))?;
    let setup = arguments.common.setup(&arguments.transmit, &receive);
    let effort = Effort {
        trial: Duration::from_secs_f64(arguments.trial.clamp(0.05, 3600.0)),
        overloads: arguments.overloads,
        steps: arguments.steps,
    };
    rates::between(setup, &scenario, effort, crate::progress)
}
