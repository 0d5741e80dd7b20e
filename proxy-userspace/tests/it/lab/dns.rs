//! DNS over TCP, as much as it takes to ask a server whom it sees.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};

const HEADER_LEN: usize = 12;
/// One question, recursion desired.
const QUERY: [u8; HEADER_LEN] = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
/// `who.am.i`, a TXT record of class IN.
const QUESTION: &[u8] = b"\x03who\x02am\x01i\0\0\x10\0\x01";
/// The name of the question again, TXT, IN, not to be cached.
const ANSWER: &[u8] = b"\xc0\x0c\0\x10\0\x01\0\0\0\0";

/// Answers every question with one TXT record, the address of whoever asks.
pub fn serve(mut stream: TcpStream, peer: SocketAddr) -> Result<()> {
    loop {
        let query = receive(&mut stream)?;
        let mut reply = query
            .get(..question_end(&query)?)
            .unwrap_or_default()
            .to_vec();
        // QR and AA; one question, one answer, nothing else
        let flags = [0x84, 0x00, 0, 1, 0, 1, 0, 0, 0, 0];
        reply.splice(2..HEADER_LEN, flags);
        let text = peer.to_string();
        let len = u8::try_from(text.len())?;
        reply.extend(ANSWER);
        reply.extend([0, len + 1, len]);
        reply.extend(text.as_bytes());
        send(&mut stream, &reply)?;
    }
}

/// Whom the server says it sees.
pub fn ask(stream: &mut TcpStream) -> Result<SocketAddr> {
    send(stream, &[&QUERY, QUESTION].concat())?;
    let reply = receive(stream)?;
    let answer = reply.get(question_end(&reply)? + ANSWER.len()..);
    // two bytes of length around the text, one byte of length of the text
    let text = answer.and_then(|data| data.get(3..)).unwrap_or_default();
    let text = str::from_utf8(text)?;
    text.parse()
        .with_context(|| format!("no address in {reply:?}"))
}

fn question_end(message: &[u8]) -> Result<usize> {
    let name = message.get(HEADER_LEN..).unwrap_or_default();
    let len = name.iter().position(|&byte| byte == 0);
    let end = HEADER_LEN + len.context("a name without an end")? + 5;
    ensure!(end <= message.len(), "a question without an end");
    Ok(end)
}

fn send(stream: &mut TcpStream, message: &[u8]) -> Result<()> {
    let len = u16::try_from(message.len())?.to_be_bytes();
    Ok(stream.write_all(&[&len[..], message].concat())?)
}

fn receive(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut message = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut message)?;
    Ok(message)
}
