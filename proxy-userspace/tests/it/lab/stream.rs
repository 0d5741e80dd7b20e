//! What tests do with a connection: ask, answer, and tell how it ended.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use socket2::SockRef;

pub fn read_line(stream: &mut impl Read) -> Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") {
        let so_far = || format!("after {:?}", String::from_utf8_lossy(&line));
        stream.read_exact(&mut byte).with_context(so_far)?;
        line.extend(byte);
    }
    line.pop();
    Ok(String::from_utf8(line)?)
}

/// Reads the greeting of [`Echo`](super::app::Echo): the address that it sees.
pub fn read_greeting(stream: &mut impl Read) -> Result<SocketAddr> {
    let line = read_line(stream)?;
    let seen = line.strip_prefix("you are ");
    Ok(seen
        .with_context(|| format!("no greeting: {line}"))?
        .parse()?)
}

/// Sends `bytes` to something that echoes, and checks the echo.
pub fn round_trip(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes)?;
    expect(stream, bytes)
}

/// Reads exactly `bytes`.
pub fn expect(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    let mut got = vec![0; bytes.len()];
    stream.read_exact(&mut got).context("reading an answer")?;
    ensure!(got == bytes, "got {got:?}, not {bytes:?}");
    Ok(())
}

/// The other side has finished, without a byte more and without an error.
pub fn expect_end(stream: &mut TcpStream) -> Result<()> {
    let mut byte = [0];
    match stream.read(&mut byte).context("reading to the end")? {
        0 => Ok(()),
        _ => bail!("byte {byte:?} where the end should be"),
    }
}

/// The other side has reset the connection, without sending anything.
pub fn expect_reset(stream: &mut TcpStream) -> Result<()> {
    match stream.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error).context("no reset"),
        Ok(0) => bail!("an orderly end instead of a reset"),
        Ok(_) => bail!("data instead of a reset"),
    }
}

/// The connection was cut off, by a reset from the other side or by this side's own kernel.
pub fn expect_cut(stream: &mut TcpStream) -> Result<()> {
    match stream.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionAborted => Ok(()),
        outcome => bail!("it wasn't cut off: {outcome:?}"),
    }
}

/// Closes with a reset.
pub fn reset(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

/// Has the other side closed, in whatever way? Waits for as long as the stream's read timeout.
pub fn has_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}
