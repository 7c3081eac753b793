//! Connections: taken one by one, bounded in what a client may keep of them, closed in good order.
//!
//! A client that sends half a request, and one that does not read its answer, holds nothing for longer than
//! the server's patience. Whoever is told of a failure in the middle of an answer hears nothing more on that
//! connection. What a client still sends when its answer is done is read for a moment and dropped: closing
//! on it would take the answer away with it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::{Sleep, sleep, timeout};

/// How long is waited where the system gives no connection, for it would give none at once either.
const BREATH: Duration = Duration::from_millis(50);

/// How long a client is listened to that still sends when its answer is done.
const LINGER: Duration = Duration::from_secs(2);

/// After so long without a byte it sends no more.
const SILENCE: Duration = Duration::from_millis(250);

/// Bytes that the system keeps of answers that are not read: left to itself it would keep megabytes, and a
/// reader that does not read would be found out late.
const SEND_BUFFER: u32 = 1 << 17;

/// Bytes that are kept of a request's head, and of an answer in front of the system's.
const BUFFER: usize = 1 << 16;

/// Connections that wait to be taken.
const BACKLOG: u32 = 1024;

tokio::task_local! {
    static CLOSER: Closer;
}

/// What closes a connection behind the answer that is under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Closer(Arc<Notify>);

impl Closer {
    /// That of the request being answered; one of no connection elsewhere.
    pub(crate) fn of_request() -> Closer {
        CLOSER.try_with(Closer::clone).unwrap_or_default()
    }

    /// Nothing is answered on the connection behind this answer.
    pub(crate) fn close(&self) {
        self.0.notify_one();
    }
}

/// Listens at an address.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    // Connections have it from here.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Takes connections until it is notified; then waits until those that there are have had their answers.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    patience: Duration,
    ends: Arc<Notify>,
) {
    let (leave, leaves) = watch::channel(());
    loop {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            () = ends.notified() => break,
        };
        tokio::spawn(serve_one(stream, router.clone(), patience, leaves.clone()));
    }
    drop((listener, leaves));
    // Nobody hears it where there is no connection.
    let _ = leave.send(());
    leave.closed().await;
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(why) => {
                tracing::warn!("a connection was not taken: {why}");
                sleep(BREATH).await;
            }
        }
    }
}

/// Answers the requests of one connection.
async fn serve_one(
    stream: TcpStream,
    router: Router,
    patience: Duration,
    mut leaves: watch::Receiver<()>,
) {
    // Events are small and wait for nobody.
    let _ = stream.set_nodelay(true);
    let closer = Closer::default();
    let routes = TowerToHyperService::new(router);
    let service = service_fn({
        let closer = closer.clone();
        move |request: Request<Incoming>| {
            let answer = routes.call(request.map(Body::new));
            Box::pin(CLOSER.scope(closer.clone(), answer))
        }
    });
    let mut builder = Builder::new();
    builder.timer(TokioTimer::new());
    builder.header_read_timeout(patience).max_buf_size(BUFFER);
    let patient = Patient::new(stream, patience);
    let mut connection = builder.serve_connection(TokioIo::new(patient), service);
    let mut is_leaving = false;
    let ended = loop {
        tokio::select! {
            ended = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)) => break ended,
            _ = leaves.changed(), if !is_leaving => {
                is_leaving = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            () = closer.0.notified() => Pin::new(&mut connection).graceful_shutdown(),
        }
    };
    let mut patient = connection.into_parts().io.into_inner();
    // Nobody reads at the other end, or there is none.
    let is_dead = patient.is_out
        || ended
            .as_ref()
            .is_err_and(hyper::Error::is_incomplete_message);
    if !is_dead {
        let _ = timeout(LINGER, linger(&mut patient.stream)).await;
    }
}

/// Says that nothing follows, and reads what still comes.
async fn linger(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut dropped = vec![0; 1 << 16];
    while let Ok(read) = timeout(SILENCE, stream.read(&mut dropped)).await {
        if read? == 0 {
            break;
        }
    }
    Ok(())
}

/// A stream whose writes fail where nothing can be written for too long.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    /// Runs while a write waits.
    waits: Option<Pin<Box<Sleep>>>,
    is_out: bool,
}

impl Patient {
    fn new(stream: TcpStream, patience: Duration) -> Patient {
        Patient {
            stream,
            patience,
            waits: None,
            is_out: false,
        }
    }

    fn hurry<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let written = write(Pin::new(&mut self.stream), cx);
        if written.is_ready() {
            self.waits = None;
            return written;
        }
        let patience = self.patience;
        let waits = (self.waits).get_or_insert_with(|| Box::pin(sleep(patience)));
        if waits.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.is_out = true;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, to)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.hurry(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.hurry(cx, |stream, cx| stream.poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.hurry(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.hurry(cx, |stream, cx| stream.poll_shutdown(cx))
    }
}
