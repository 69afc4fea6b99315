//! How many connections are served at a time, and how long a silent one is: what the agent needs for those who ask
//! is bounded, however many pods start at once. Who finds no room waits in the kernel's queue; a plugin that waits
//! for too long does without the agent.

use axum::serve::Listener;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Connections that are served at a time: twice the calls that are at work on a node.
pub(super) const CONNECTIONS: usize = 64;

/// Longer than a request is ever worked on. Then the connection is closed: nobody keeps the others out by saying
/// nothing.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

/// A listener that accepts no more than so many at a time.
pub(super) struct Limited<L> {
    listener: L,
    free: Arc<Semaphore>,
    silence: Duration,
}

impl<L> Limited<L> {
    pub(super) fn new(listener: L) -> Self {
        Self { listener, free: Arc::new(Semaphore::new(CONNECTIONS)), silence: LONGEST_SILENCE }
    }
}

impl<L: Listener> Listener for Limited<L> {
    type Io = Held<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // It is never closed.
        let place = self.free.clone().acquire_owned().await.ok();
        let (stream, address) = self.listener.accept().await;
        let end = Box::pin(tokio::time::sleep(self.silence));
        (Held { stream, silence: self.silence, end, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that has its place until it is dropped.
pub(super) struct Held<S> {
    stream: S,
    silence: Duration,
    /// When it has said nothing for too long.
    end: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_ready() {
            let end = Instant::now() + self.silence;
            self.end.as_mut().reset(end);
            return polled;
        }
        self.end.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    #[tokio::test]
    async fn a_connection_that_says_nothing_is_closed_and_its_place_is_free() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
        let (free, silence) = (Arc::new(Semaphore::new(1)), Duration::from_millis(50));
        let mut limited = Limited { listener, free: free.clone(), silence };
        let _caller = UnixStream::connect(&path).await.expect("connected");
        let (mut held, _) = limited.accept().await;
        assert_eq!(free.available_permits(), 0);
        let error = held.read_u8().await.expect_err("nothing was said");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(held);
        assert_eq!(free.available_permits(), 1);
    }
}
