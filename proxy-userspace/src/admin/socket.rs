//! Requests from `truepeer status` and `truepeer reload`.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
    sync::{mpsc, oneshot},
    time::timeout,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Status,
    Reload,
}

/// A request that waits for its line of JSON.
pub struct Asked {
    pub request: Request,
    pub reply: oneshot::Sender<String>,
}

/// The daemon's end. Dropping it removes the socket's file.
pub struct Listener {
    path: PathBuf,
    asked: mpsc::Receiver<Asked>,
}

/// No request is longer.
const LONGEST: u64 = 64;
/// Neither asking nor answering takes long.
const PATIENCE: Duration = Duration::from_secs(5);

impl Listener {
    pub fn open(instance: &str) -> Result<Self> {
        let path = super::path(instance, "sock");
        // Left by a daemon that was killed; one that runs would have the lock.
        let _ = fs::remove_file(&path);
        let socket = UnixListener::bind(&path)
            .with_context(|| format!("opening control socket {}", path.display()))?;
        let (sender, asked) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let _ = timeout(PATIENCE, serve(stream, &sender)).await;
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

async fn serve(stream: tokio::net::UnixStream, sender: &mpsc::Sender<Asked>) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(read.take(LONGEST))
        .read_line(&mut line)
        .await?;
    let (reply, answer) = oneshot::channel();
    let request = serde_json::from_str(&line)?;
    sender
        .send(Asked { request, reply })
        .await
        .context("stopping")?;
    let mut answer = answer.await?;
    answer.push('\n');
    write.write_all(answer.as_bytes()).await?;
    Ok(())
}

/// The asking end.
pub fn ask<T: DeserializeOwned>(instance: &str, request: Request) -> Result<T> {
    let path = super::path(instance, "sock");
    let Ok(mut stream) = UnixStream::connect(&path) else {
        bail!(
            "no daemon answers at {}: is instance {instance} running?",
            path.display()
        );
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "{}", serde_json::to_string(&request)?)?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .context("the daemon didn't answer")?;
    serde_json::from_str(&line).context("the daemon's answer is of another version")
}
