//! TCP: an echo that is compared byte for byte, and bulk transfers.

use super::{Host, PATIENCE};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{Backlog, SockType, SockaddrIn, connect, listen, setsockopt, sockopt};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Ports of the servers here.
const PORT: u16 = 5001;

/// A bulk transfer as its receiver saw it.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpReport {
    pub bytes: u64,
    pub seconds: f64,
}

impl TcpReport {
    /// Megabits of TCP payload a second.
    pub fn mbit_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.seconds / 1e6
    }
}

/// Sends `length` bytes to a server that sends them back, and compares.
///
/// # Errors
/// No connection, silence for five seconds, or other bytes than were sent.
pub fn echo(client: Host<'_>, server: Host<'_>, length: usize) -> Result<()> {
    let sent: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
    let (mut near, mut far) = pair(client, server)?;
    let mut returned = vec![0; length];
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || std::io::copy(&mut far.try_clone()?, &mut far));
        let (mut sender, sent) = (near.try_clone()?, &sent);
        let send = scope.spawn(move || {
            sender.write_all(sent)?;
            sender.shutdown(Shutdown::Write)
        });
        near.read_exact(&mut returned).context("read the echo")?;
        joined(send.join())?;
        joined(echo.join())?;
        Ok::<_, anyhow::Error>(())
    })?;
    ensure!(returned == sent, "the echo differs from what was sent");
    Ok(())
}

/// As much as goes from one host to the other in this time. The client opens the connection.
///
/// # Errors
/// No connection, or silence for five seconds.
pub fn bulk(client: Host<'_>, server: Host<'_>, uplink: bool, time: Duration) -> Result<TcpReport> {
    let (near, far) = pair(client, server)?;
    let (sender, receiver) = if uplink { (near, far) } else { (far, near) };
    std::thread::scope(|scope| {
        let send = scope.spawn(|| send_for(sender, time));
        let report = receive_all(receiver);
        joined(send.join())?;
        report
    })
}

fn joined<T, E: Into<anyhow::Error>>(ended: std::thread::Result<Result<T, E>>) -> Result<T> {
    match ended {
        Ok(result) => result.map_err(Into::into),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn send_for(mut stream: TcpStream, time: Duration) -> Result<()> {
    let block = vec![0x5a; 128 << 10];
    let deadline = Instant::now() + time;
    while Instant::now() < deadline {
        stream.write_all(&block).context("send")?;
    }
    stream.shutdown(Shutdown::Write).context("end of sending")
}

fn receive_all(mut stream: TcpStream) -> Result<TcpReport> {
    let mut block = vec![0; 256 << 10];
    let (start, mut bytes) = (Instant::now(), 0);
    loop {
        match stream.read(&mut block).context("receive")? {
            0 => return Ok(TcpReport { bytes, seconds: start.elapsed().as_secs_f64() }),
            length => bytes += length as u64,
        }
    }
}

/// A connection: the client's end and the server's.
fn pair(client: Host<'_>, server: Host<'_>) -> Result<(TcpStream, TcpStream)> {
    let listener = server.socket(SockType::Stream, PORT)?;
    listen(&listener, Backlog::new(1)?).context("listen")?;
    // Bounds `accept` too (socket(7), SO_RCVTIMEO).
    setsockopt(&listener, sockopt::ReceiveTimeout, &patience())?;
    let near = client.socket(SockType::Stream, 0)?;
    // Bounds `connect` too.
    setsockopt(&near, sockopt::SendTimeout, &patience())?;
    let to = SockaddrIn::from(SocketAddrV4::new(server.address, PORT));
    connect(near.as_raw_fd(), &to).with_context(|| format!("connect from {} to {to}", client.address))?;
    let (far, from) = match TcpListener::from(listener).accept() {
        Ok(accepted) => accepted,
        Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("nobody connected to {to}"),
        Err(error) => return Err(error).context("accept"),
    };
    ensure!(
        from.ip() == client.address,
        "the server sees the client as {}, not {}: NAT",
        from.ip(),
        client.address
    );
    let near = TcpStream::from(near);
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
    }
    Ok((near, far))
}

fn patience() -> nix::sys::time::TimeVal {
    nix::sys::time::TimeVal::new(PATIENCE.as_secs().cast_signed(), 0)
}
