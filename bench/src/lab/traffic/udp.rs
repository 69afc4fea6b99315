//! UDP with sequence numbers: a bulk in a window, and a steady stream whose losses are counted.

use super::{Host, PATIENCE};
use anyhow::{Context, Result};
use nix::sys::socket::{SockType, setsockopt, sockopt};
use std::net::{SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PORT: u16 = 5002;

/// Socket buffers in bytes: a busy machine must not lose here what the network delivered.
const SOCKET_BUFFER: usize = 32 << 20;

/// Sends every datagram back to where it came from.
#[derive(Debug)]
pub struct EchoServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EchoServer {
    /// Starts it on a host.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(host: Host<'_>) -> Result<Self> {
        let socket = open(host, PORT)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 1 << 16];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    // A datagram that cannot be sent back is a loss that the other side counts.
                    let _sent = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            let _ended = thread.join();
        }
    }
}

fn open(host: Host<'_>, port: u16) -> Result<UdpSocket> {
    let fd = host.socket(SockType::Datagram, port)?;
    setsockopt(&fd, sockopt::RcvBufForce, &SOCKET_BUFFER).context("SO_RCVBUFFORCE")?;
    Ok(UdpSocket::from(fd))
}

/// A bulk of datagrams that were sent and came back.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UdpReport {
    pub sent: u64,
    pub returned: u64,
    pub seconds: f64,
}

impl UdpReport {
    /// Datagrams there and back a second.
    pub fn per_second(&self) -> f64 {
        self.returned as f64 / self.seconds
    }
}

/// Sends `count` datagrams of `size` bytes to an [`EchoServer`], with at most `window` of them under way.
///
/// # Errors
/// A socket fails. Losses are no error.
pub fn bulk(client: Host<'_>, server: Host<'_>, count: u64, size: usize, window: u64) -> Result<UdpReport> {
    let socket = open(client, 0)?;
    socket.connect(SocketAddrV4::new(server.address, PORT))?;
    // The longest wait for anything under way; after that it is lost.
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut buffer = vec![0; size.max(8)];
    let (mut sent, mut returned, mut lost) = (0, 0, 0);
    let start = Instant::now();
    while returned + lost < count {
        while sent < count && sent - returned - lost < window {
            buffer[..8].copy_from_slice(&sent.to_be_bytes());
            socket.send(&buffer).context("send a datagram")?;
            sent += 1;
        }
        match socket.recv(&mut buffer) {
            Ok(_) => returned += 1,
            Err(_) => lost = sent - returned,
        }
    }
    Ok(UdpReport { sent, returned, seconds: start.elapsed().as_secs_f64() })
}

/// A steady stream to an [`EchoServer`] and back, in the background.
#[derive(Debug)]
pub struct Stream {
    /// Tells the sender to stop.
    stop: Arc<AtomicBool>,
    /// Tells the receiver that nothing more is sent.
    complete: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: JoinHandle<Result<()>>,
    receiver: JoinHandle<StreamReport>,
}

/// What became of a stream.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamReport {
    pub sent: u64,
    pub returned: u64,
    /// Sequence numbers that did not come back, as ranges with both ends.
    pub lost: Vec<(u64, u64)>,
    /// Longest time without a datagram, in milliseconds.
    pub longest_gap_ms: f64,
}

impl StreamReport {
    pub fn n_lost(&self) -> u64 {
        self.lost.iter().map(|(first, last)| last - first + 1).sum()
    }
}

impl Stream {
    /// Starts it, at `rate` datagrams a second.
    ///
    /// # Errors
    /// No socket.
    pub fn start(client: Host<'_>, server: Host<'_>, rate: u32) -> Result<Self> {
        let socket = open(client, 0)?;
        socket.connect(SocketAddrV4::new(server.address, PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let flag = || Arc::new(AtomicBool::new(false));
        let (stop, complete, sent) = (flag(), flag(), Arc::new(AtomicU64::new(0)));
        let sender = {
            let (socket, stop, sent) = (socket.try_clone()?, stop.clone(), sent.clone());
            std::thread::spawn(move || send(&socket, rate, &stop, &sent))
        };
        let receiver = {
            let (complete, sent) = (complete.clone(), sent.clone());
            std::thread::spawn(move || receive(&socket, &complete, &sent))
        };
        Ok(Self { stop, complete, sent, sender, receiver })
    }

    /// Datagrams sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    /// Waits until this many more have been sent.
    ///
    /// # Errors
    /// They are not within a minute.
    pub fn wait_for_more(&self, more: u64) -> Result<()> {
        let goal = self.sent() + more;
        let probe = || Ok((self.sent() >= goal).then_some(()));
        crate::lab::wait_for("the stream to go on", Duration::from_secs(60), probe)
    }

    /// Stops sending, waits for what is under way, and reports.
    ///
    /// # Errors
    /// A datagram could not be sent.
    pub fn finish(self) -> Result<StreamReport> {
        self.stop.store(true, Ordering::Release);
        let sent = self.sender.join().ok().context("the sender panicked");
        self.complete.store(true, Ordering::Release);
        sent??;
        self.receiver.join().ok().context("the receiver panicked")
    }
}

fn send(socket: &UdpSocket, rate: u32, stop: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    let (start, period) = (Instant::now(), Duration::from_secs(1) / rate);
    let mut sequence = 0_u64;
    while !stop.load(Ordering::Acquire) {
        socket.send(&sequence.to_be_bytes()).with_context(|| format!("send datagram {sequence}"))?;
        sequence += 1;
        sent.store(sequence, Ordering::Release);
        let due = period.mul_f64(sequence as f64);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
    Ok(())
}

fn receive(socket: &UdpSocket, complete: &AtomicBool, sent: &AtomicU64) -> StreamReport {
    let mut report = StreamReport::default();
    let (mut seen, mut last) = (Vec::new(), Instant::now());
    let mut buffer = [0; 8];
    loop {
        let complete = complete.load(Ordering::Acquire);
        match socket.recv(&mut buffer) {
            Ok(8) => {
                let sequence = u64::from_be_bytes(buffer) as usize;
                seen.resize(seen.len().max(sequence + 1), false);
                report.returned += u64::from(!std::mem::replace(&mut seen[sequence], true));
                report.longest_gap_ms = report.longest_gap_ms.max(last.elapsed().as_secs_f64() * 1e3);
                last = Instant::now();
            }
            _ if complete && last.elapsed() > PATIENCE => break,
            _ => {}
        }
        if complete && report.returned == sent.load(Ordering::Acquire) {
            break;
        }
    }
    report.sent = sent.load(Ordering::Acquire);
    seen.resize(report.sent as usize, false);
    report.lost = gaps(&seen);
    report
}

/// Ranges of indices of `false`, both ends included.
fn gaps(seen: &[bool]) -> Vec<(u64, u64)> {
    let mut gaps: Vec<(u64, u64)> = Vec::new();
    for (index, _) in seen.iter().enumerate().filter(|(_, seen)| !**seen) {
        let index = index as u64;
        match gaps.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => gaps.push((index, index)),
        }
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_ranges() {
        assert_eq!(gaps(&[true, false, false, true, false]), [(1, 2), (4, 4)]);
        assert_eq!(gaps(&[true, true]), []);
    }
}
