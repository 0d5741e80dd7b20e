//! The end of connections that nobody steers any more: each side gets a reset while there are still
//! programs to carry it.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::netns::{Local, SocketState, TcpSocket, TcpSockets};

/// How long what is nearly over may take to end by itself: the kernel sends no reset for it.
const NEARLY_OVER: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Ends all connections whose local address is one of `steer`, in the calling thread's namespace.
/// Again and again, as accept() may be about to return more; says how many they were.
pub async fn end_connections(steer: impl IntoIterator<Item: Into<Local>>) -> Result<usize> {
    let mut sockets = TcpSockets::open()?;
    let steer: Vec<Local> = steer.into_iter().map(Into::into).collect();
    let start = Instant::now();
    let mut ended = 0;
    loop {
        let mut left = Vec::new();
        sockets.for_each(&steer, |socket| left.push(socket))?;
        if left.is_empty() {
            return Ok(ended);
        }
        let waited = start.elapsed();
        for socket in &left {
            if (waited > NEARLY_OVER || !is_nearly_over(socket)) && sockets.destroy(socket)? {
                ended += 1;
            }
        }
        if waited > LONGEST {
            tracing::warn!("{} connections don't end", left.len());
            return Ok(ended);
        }
        sleep(PAUSE).await;
    }
}

fn is_nearly_over(socket: &TcpSocket) -> bool {
    matches!(socket.state, SocketState::LastAck | SocketState::Closing)
}

/// Ends all connections of the namespace that `sockets` is of, however much its owner has left to send.
/// The kernel keeps a namespace, and its devices, for as long as one of them waits to be acknowledged.
pub fn end_all(sockets: &mut TcpSockets) -> Result<usize> {
    let mut left = Vec::new();
    sockets.for_each(&Local::ANY, |socket| left.push(socket))?;
    let mut ended = 0;
    for socket in &left {
        ended += usize::from(sockets.destroy(socket)?);
    }
    Ok(ended)
}
