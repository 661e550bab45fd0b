//! The way of requests to a member: what a connection writes within one turn of the runtime leaves in one packet.
//!
//! HTTP/2 flushes the headers of a request before its message is there. Sent one by one, each costs a system call here and
//! wakes the server up.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions, Error, TlsOptions};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tower::util::ServiceExt;

/// Bytes that are kept until the end of a turn. What is longer needs more than one packet anyway.
const ROOM: usize = 16 << 10;

/// etcd closes connections that ping more often than every five seconds, or, without streams, every two hours.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3));

/// Connects to one member.
pub(crate) async fn connect(
    member: &str,
    tls: Option<TlsOptions>,
    options: ConnectOptions,
    within: Duration,
) -> Result<Client, Error> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{member}"))?
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .connect_timeout(within);
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls)?;
    }
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    // Divided among the addresses of a name.
    connector.set_connect_timeout(Some(within));
    let connector = connector.map_response(|io: TokioIo<TcpStream>| TokioIo::new(Coalescing::new(io.into_inner())));
    let channel = endpoint.connect_with_connector(connector).await?;
    Client::from_channel(Channel::Tonic(channel), Some(options)).await
}

/// A connection that puts off a flush until the task that asked for it has its next turn, which it asks for.
#[derive(Debug)]
struct Coalescing<I> {
    io: I,
    kept: Vec<u8>,
    put_off: PutOff,
}

/// The state of what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PutOff {
    /// Nobody wants it to be sent.
    No,
    /// In this turn, it was to be flushed.
    Flush,
    /// And then there was an attempt to read, in this turn or the next one. Who reads once more may wait for an answer to
    /// what is kept, and need not flush again before.
    FlushAndRead,
}

impl<I: AsyncWrite + Unpin> Coalescing<I> {
    fn new(io: I) -> Self {
        Self { io, kept: Vec::new(), put_off: PutOff::No }
    }

    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.kept))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => drop(self.kept.drain(..sent)),
            }
        }
        self.put_off = PutOff::No;
        Pin::new(&mut self.io).poll_flush(cx)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Coalescing<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.put_off {
            PutOff::No => {}
            PutOff::Flush => self.put_off = PutOff::FlushAndRead,
            // Sent as far as it can be; the task is told when there is room for more.
            PutOff::FlushAndRead => {
                if let Poll::Ready(sent) = self.send(cx) {
                    sent?;
                }
            }
        }
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Coalescing<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        if self.kept.len() + length > ROOM {
            ready!(self.send(cx))?;
            if length > ROOM {
                return Pin::new(&mut self.io).poll_write_vectored(cx, parts);
            }
        }
        for part in parts {
            self.kept.extend_from_slice(part);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.kept.is_empty() || self.put_off != PutOff::No {
            return self.send(cx);
        }
        self.put_off = PutOff::Flush;
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::future::poll_fn;
    use std::sync::{Arc, Mutex};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    /// Notes how long each write was.
    struct Noted {
        io: DuplexStream,
        writes: Arc<Mutex<Vec<usize>>>,
    }

    impl AsyncRead for Noted {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_read(cx, into)
        }
    }

    impl AsyncWrite for Noted {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
            self.writes.lock().unwrap().push(written);
            Poll::Ready(Ok(written))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(cx)
        }
    }

    /// This side, the other one, and what this one writes.
    fn connection(room: usize) -> (Coalescing<Noted>, DuplexStream, Arc<Mutex<Vec<usize>>>) {
        let (io, peer) = tokio::io::duplex(room);
        let writes = Arc::<Mutex<Vec<usize>>>::default();
        (Coalescing::new(Noted { io, writes: writes.clone() }), peer, writes)
    }

    /// One turn of a task that never waits.
    async fn turn(of: impl FnOnce(&mut Context<'_>)) {
        let mut of = Some(of);
        poll_fn(|cx| {
            if let Some(of) = of.take() {
                of(cx);
            }
            Poll::Ready(())
        })
        .await;
    }

    fn write(io: &mut Coalescing<Noted>, cx: &mut Context<'_>, bytes: &[u8]) {
        assert!(matches!(Pin::new(io).poll_write(cx, bytes), Poll::Ready(Ok(n)) if n == bytes.len()));
    }

    #[tokio::test]
    async fn headers_and_message_leave_together() {
        let (mut io, mut peer, writes) = connection(100);
        turn(|cx| {
            write(&mut io, cx, b"head");
            assert!(Pin::new(&mut io).poll_flush(cx).is_ready());
        })
        .await;
        assert!(writes.lock().unwrap().is_empty());
        turn(|cx| {
            let mut room = [0; 8];
            assert!(Pin::new(&mut io).poll_read(cx, &mut ReadBuf::new(&mut room)).is_pending());
            write(&mut io, cx, b"message");
            assert!(Pin::new(&mut io).poll_flush(cx).is_ready());
        })
        .await;
        assert_eq!(*writes.lock().unwrap(), [11]);
        let mut got = [0; 11];
        peer.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"headmessage");
    }

    /// As TLS does while it shakes hands: it flushes once, and then reads until there is an answer.
    #[tokio::test(start_paused = true)]
    async fn one_who_only_reads_after_a_flush_has_sent() {
        let (mut io, mut peer, _) = connection(100);
        let echo = tokio::spawn(async move {
            let mut got = [0; 5];
            peer.read_exact(&mut got).await.unwrap();
            peer.write_all(&got).await.unwrap();
            peer
        });
        let mut answer = [0; 5];
        let asking = async {
            io.write_all(b"hello").await.unwrap();
            io.flush().await.unwrap();
            io.read_exact(&mut answer).await.unwrap();
        };
        tokio::time::timeout(Duration::from_secs(1), asking).await.expect("it was sent");
        assert_eq!(&answer, b"hello");
        echo.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_kept_is_sent_before_the_end() {
        let (mut io, mut peer, _) = connection(3);
        let sending = tokio::spawn(async move {
            io.write_all(b"last words").await.unwrap();
            io.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        peer.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"last words");
        sending.await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_is_an_error() {
        let (mut io, peer, _) = connection(100);
        drop(peer);
        io.write_all(b"x").await.unwrap();
        io.flush().await.unwrap();
        assert!(io.flush().await.is_err());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize),
        Flush,
        Turn,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (1_usize..50).prop_map(Step::Write),
            1 => (ROOM - 20..ROOM + 20).prop_map(Step::Write),
            3 => Just(Step::Flush),
            2 => Just(Step::Turn),
        ];
        proptest::collection::vec(step, 1..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn everything_arrives_once_and_in_order(steps in steps(), room in prop_oneof![1_usize..64, Just(1 << 20)]) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            let (sent, got) = runtime.block_on(async {
                let (mut io, mut peer, _) = connection(room);
                let reading = tokio::spawn(async move {
                    let mut got = Vec::new();
                    peer.read_to_end(&mut got).await.unwrap();
                    got
                });
                let mut sent: Vec<u8> = Vec::new();
                for step in steps {
                    match step {
                        Step::Write(length) => {
                            let bytes: Vec<_> = (0..length).map(|i| ((sent.len() + i) % 251) as u8).collect();
                            io.write_all(&bytes).await.unwrap();
                            sent.extend(bytes);
                        }
                        Step::Flush => io.flush().await.unwrap(),
                        Step::Turn => tokio::task::yield_now().await,
                    }
                }
                io.shutdown().await.unwrap();
                drop(io);
                (sent, reading.await.unwrap())
            });
            prop_assert_eq!(sent, got);
        }
    }
}
