//! Reading a header as it comes, in whatever pieces.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    task::{Poll, ready},
};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::pump::{poll_read, with_buffer};
use crate::{
    header::{Parse, parse},
    relay::{End, Service, open::KeptHeader},
};

/// What the header said, and what came behind it.
pub struct Head {
    /// None: the balancer speaks for itself.
    pub source: Option<SocketAddr>,
    pub header: KeptHeader,
    pub payload: Vec<u8>,
}

/// One read's worth. Most headers come whole and with little behind them.
const CHUNK: usize = 2048;

/// The clock runs from accept, however the bytes trickle.
pub async fn read(stream: &TcpStream, service: &Service) -> Result<Head, End> {
    let deadline = Instant::now() + service.header_timeout;
    let mut received = Vec::new();
    loop {
        let more = timeout_at(deadline, read_some(stream, &mut received)).await;
        let bytes = received.len();
        match more {
            Err(_) => return Err(End::HeaderTimeout { bytes }),
            Ok(Err(_)) if bytes == 0 => return Err(End::Silent),
            Ok(Err(error)) => return Err(End::HeaderRead(error)),
            Ok(Ok(0)) if bytes == 0 => return Err(End::Silent),
            Ok(Ok(0)) => return Err(End::HeaderCut { bytes }),
            Ok(Ok(_)) => {}
        }
        match parse(&received, &service.policy).map_err(End::Header)? {
            Parse::Partial => {}
            Parse::Complete { header, len } => {
                let source = header.endpoints.map(|endpoints| endpoints.source);
                let header = KeptHeader {
                    version: header.version,
                    command: header.command,
                    tlvs: header.tlvs.keep(),
                };
                return Ok(Head {
                    source,
                    header,
                    // In room of its own, mostly none.
                    payload: received.split_off(len),
                });
            }
        }
    }
}

/// By the worker's buffer, so that a connection holds what has come and no more.
async fn read_some(stream: &TcpStream, received: &mut Vec<u8>) -> io::Result<usize> {
    poll_fn(|cx| {
        with_buffer(|buffer| {
            let (chunk, _) = buffer.split_at_mut(CHUNK);
            let read = ready!(poll_read(cx, stream, chunk))?;
            received.extend_from_slice(chunk.get(..read).unwrap_or_default());
            Poll::Ready(Ok(read))
        })
    })
    .await
}
