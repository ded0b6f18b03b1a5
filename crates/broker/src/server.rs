//! Connections: one frame after the other, answered in order.
//!
//! Invariant: a client can cost at most one request's memory; what it sends cannot hurt others.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    broker::Broker,
    handlers::{Context, handle},
};

/// A connection that is silent for so long is closed (`connections.max.idle.ms`).
const IDLE: Duration = Duration::from_secs(600);
/// Time for the rest of a frame, and for a client to take an answer.
const STALL: Duration = Duration::from_secs(60);

/// Accepts clients on one listener.
pub async fn serve(broker: Arc<Broker>, listener: TcpListener, context: Context) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(next) => next,
            Err(e) => {
                tracing::warn!("accept: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if open.fetch_add(1, Ordering::SeqCst) >= broker.config.max_connections {
            open.fetch_sub(1, Ordering::SeqCst);
            tracing::warn!("{from}: refused, max.connections is reached");
            continue;
        }
        let (broker, context, open) = (broker.clone(), context.clone(), open.clone());
        tokio::spawn(async move {
            if let Err(e) = connection(&broker, &context, stream, from).await {
                tracing::debug!("{from}: {e}");
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn connection(broker: &Arc<Broker>, context: &Context, stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::with_capacity(64 * 1024, read);
    loop {
        let length = match timeout(IDLE, read.read_i32()).await {
            Ok(Ok(n)) => n,
            Ok(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(e)) => return Err(e),
            Err(_) => return Ok(()),
        };
        let max = broker.config.request_max_bytes;
        let Some(length) = usize::try_from(length).ok().filter(|n| (8..=max).contains(n)) else {
            tracing::warn!("{from}: request of {length} bytes (socket.request.max.bytes is {max}); closed");
            return Ok(());
        };
        let frame = timeout(STALL, read_frame(&mut read, length)).await??;
        match handle(broker, context, frame).await {
            Ok(Some(answer)) => timeout(STALL, write.write_all(&answer)).await??,
            Ok(None) => {}
            Err(e) => {
                tracing::warn!("{from}: {e}; closed");
                return Ok(());
            }
        }
    }
}

/// Reads a frame; memory grows with what arrives, not with what was announced.
async fn read_frame(read: &mut (impl AsyncReadExt + Unpin), length: usize) -> io::Result<Bytes> {
    let mut frame = BytesMut::with_capacity(length.min(64 * 1024));
    while frame.len() < length {
        let left = length - frame.len();
        if (&mut *read).take(left as u64).read_buf(&mut frame).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
    }
    Ok(frame.freeze())
}
