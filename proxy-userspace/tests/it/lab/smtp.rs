//! A mail server as far as its greeting. It speaks first.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result};

use super::stream::read_line;

/// What a greeting starts with.
pub const READY: &str = "220 ";

pub fn serve(mut stream: TcpStream, peer: SocketAddr) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(format!("{READY}lab ESMTP for {peer}\r\n").as_bytes())?;
    while read_line(&mut stream)? != "QUIT\r" {
        stream.write_all(b"250 fine\r\n")?;
    }
    stream.write_all(b"221 bye\r\n")?;
    Ok(())
}

/// Whom a greeting is for.
pub fn greeted(line: &str) -> Result<SocketAddr> {
    let peer = line.trim_end().rsplit(' ').next();
    peer.and_then(|peer| peer.parse().ok())
        .with_context(|| format!("no greeting: {line}"))
}
