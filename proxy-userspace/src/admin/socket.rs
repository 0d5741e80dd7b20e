//! Requests from `truepeer status`, `truepeer connections` and `truepeer reload`.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, unix::OwnedReadHalf},
    sync::mpsc,
    time::{sleep, timeout},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Status,
    Connections,
    Reload,
}

/// A request that waits for its line of JSON.
pub struct Asked {
    pub request: Request,
    pub reply: Reply,
}

/// Takes the line whole or in pieces. Nothing happens when the asker has gone.
pub struct Reply(mpsc::Sender<String>);

impl Reply {
    pub fn send(self, answer: String) {
        let _ = self.0.try_send(answer);
    }

    /// A list of any length, at the asker's pace and on a thread of its own: the daemon goes on
    /// meanwhile, and never has more than some pieces of it in memory.
    pub fn send_list<T: Serialize>(self, items: impl Iterator<Item = T> + Send + 'static) {
        tokio::task::spawn_blocking(move || {
            for piece in list_pieces(items) {
                if self.0.blocking_send(piece).is_err() {
                    return;
                }
            }
        });
    }
}

/// A JSON array in pieces, none of them much longer than this.
const PIECE: usize = 64 * 1024;

fn list_pieces<T: Serialize>(items: impl Iterator<Item = T>) -> impl Iterator<Item = String> {
    let items = items.filter_map(|item| serde_json::to_string(&item).ok());
    let mut items = items.peekable();
    let mut opened = false;
    let mut closed = false;
    std::iter::from_fn(move || {
        let mut piece = String::new();
        if !std::mem::replace(&mut opened, true) {
            piece.push('[');
        }
        while let Some(item) = items.next_if(|_| piece.len() < PIECE) {
            piece.push_str(&item);
            if items.peek().is_some() {
                piece.push(',');
            }
        }
        if items.peek().is_none() && !std::mem::replace(&mut closed, true) {
            piece.push(']');
        }
        (!piece.is_empty()).then_some(piece)
    })
}

/// The daemon's end. Dropping it removes the socket's file.
pub struct Listener {
    path: PathBuf,
    asked: mpsc::Receiver<Asked>,
}

/// No request is longer.
const LONGEST: u64 = 64;
/// After a failure to take a request.
const PAUSE: Duration = Duration::from_secs(1);
/// Neither asking nor answering takes long.
const PATIENCE: Duration = Duration::from_secs(5);
const LONG_PATIENCE: Duration = Duration::from_secs(60);

impl Listener {
    pub fn open(instance: &str) -> Result<Self> {
        let path = super::path(instance, "sock");
        // Left by a daemon that was killed; one that runs would have the lock.
        let _ = fs::remove_file(&path);
        let socket = UnixListener::bind(&path)
            .with_context(|| format!("opening control socket {}", path.display()))?;
        let (sender, asked) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                match socket.accept().await {
                    // Each on its own, so that a slow one keeps nobody else waiting.
                    Ok((stream, _)) => drop(tokio::spawn(serve(stream, sender.clone()))),
                    // As while there are too many open files: it waits in the queue.
                    Err(error) => {
                        tracing::warn!("control socket: {error}");
                        sleep(PAUSE).await;
                    }
                }
            }
        });
        Ok(Self { path, asked })
    }

    pub async fn asked(&mut self) -> Option<Asked> {
        self.asked.recv().await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn serve(stream: tokio::net::UnixStream, sender: mpsc::Sender<Asked>) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let request = timeout(PATIENCE, read_request(read)).await??;
    let (reply, mut pieces) = mpsc::channel(1);
    let reply = Reply(reply);
    let asked = Asked { request, reply };
    sender.send(asked).await.context("stopping")?;
    while let Some(piece) = pieces.recv().await {
        timeout(PATIENCE, write.write_all(piece.as_bytes())).await??;
    }
    write.write_all(b"\n").await?;
    Ok(())
}

async fn read_request(read: OwnedReadHalf) -> Result<Request> {
    let mut line = String::new();
    tokio::io::BufReader::new(read.take(LONGEST))
        .read_line(&mut line)
        .await?;
    Ok(serde_json::from_str(&line)?)
}

/// The asking end.
pub fn ask<T: DeserializeOwned>(instance: &str, request: Request) -> Result<T> {
    let path = super::path(instance, "sock");
    let mut stream = UnixStream::connect(&path).map_err(|error| {
        let path = path.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                anyhow!("no permission to ask instance {instance} at {path}: run as root")
            }
            _ => anyhow!("no daemon answers at {path}: is instance {instance} running?"),
        }
    })?;
    stream.set_read_timeout(Some(match request {
        // However long the files are.
        Request::Reload => LONG_PATIENCE,
        Request::Status | Request::Connections => PATIENCE,
    }))?;
    writeln!(stream, "{}", serde_json::to_string(&request)?)?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .context("the daemon didn't answer")?;
    serde_json::from_str(&line).context("the daemon's answer is of another version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_in_pieces_is_one_array() {
        for count in [0, 1, 2, 40_000] {
            let pieces: Vec<_> = list_pieces(0..count).collect();
            assert!(
                pieces.iter().all(|piece| piece.len() < PIECE + 16),
                "{count}"
            );
            let list: Vec<i32> = serde_json::from_str(&pieces.concat()).expect("an array");
            assert!(list.into_iter().eq(0..count), "{count}");
        }
    }
}
