//! Requests from `truepeer status`, `connections`, `reload`, `drain` and `deny`.

use std::{
    fs::{self, Permissions},
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        net::UnixStream,
    },
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, unix::OwnedReadHalf},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Status,
    Connections,
    /// The configuration and all lists are read again.
    Reload {
        /// Only what would change is told.
        dry_run: bool,
    },
    /// Whether a service, or all of them, take nobody new. Answered with how many connections and flows are open.
    Drain {
        service: Option<u32>,
        drained: bool,
    },
    /// The deny list has changed.
    EndDenied,
    /// Which lists these are: see [`Lists`].
    Lists,
    /// An allowlist has changed: what of it is kept in a file, is written there.
    KeepLists,
    /// A service's allowlist has changed: ends what balancers have open that aren't on it.
    EndUnlisted {
        service: u32,
    },
}

impl Request {
    fn changes_something(self) -> bool {
        match self {
            Self::Status | Self::Connections | Self::Lists => false,
            Self::Reload { .. }
            | Self::Drain { .. }
            | Self::EndDenied
            | Self::KeepLists
            | Self::EndUnlisted { .. } => true,
        }
    }

    /// Where the calling process asks: root where nobody else can be in the way.
    fn door(self) -> Door {
        if self.changes_something() || geteuid().is_root() {
            Door::Control
        } else {
            Door::Status
        }
    }
}

/// Which of the two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// Of those who may look: a group.
    Status,
    /// Of the daemon's user alone, and for all.
    Control,
}

impl Door {
    const BOTH: [Self; 2] = [Self::Status, Self::Control];

    fn path(self, instance: &str) -> PathBuf {
        super::path(
            instance,
            match self {
                Self::Status => "status.sock",
                Self::Control => "sock",
            },
        )
    }

    /// Who may ask here, by the kernel's word on who has connected: the socket's mode has let in
    /// whoever is in the group.
    fn admits(self, stream: &tokio::net::UnixStream) -> io::Result<bool> {
        let uid = stream.peer_cred()?.uid();
        let is_own = uid == 0 || uid == geteuid().as_raw();
        Ok(is_own || self == Self::Status)
    }

    /// Left by a daemon that was killed; one that runs would have the lock.
    fn bind(self, instance: &str, group: Option<u32>) -> Result<UnixListener> {
        let path = self.path(instance);
        let _ = fs::remove_file(&path);
        let group = group.filter(|_| self == Self::Status);
        let open = || {
            let socket = UnixListener::bind(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            if group.is_some() {
                chown(&path, None, group)?;
                fs::set_permissions(&path, Permissions::from_mode(0o660))?;
            }
            Ok::<_, io::Error>(socket)
        };
        open().with_context(|| format!("opening control socket {}", path.display()))
    }
}

/// Where a daemon listens.
pub fn sockets(instance: &str) -> [PathBuf; 2] {
    Door::BOTH.map(|door| door.path(instance))
}

/// The lists that a daemon has.
#[derive(Debug, Serialize, Deserialize)]
pub struct Lists {
    /// The kernel's, of its maps.
    pub ids: Vec<u32>,
    pub pid: u32,
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

    pub fn send_json(self, answer: &impl Serialize) {
        match serde_json::to_string(answer) {
            Ok(answer) => self.send(answer),
            Err(error) => tracing::error!("answering: {error}"),
        }
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

/// The daemon's end. Dropping it removes the sockets' files.
pub struct Listener {
    instance: String,
    asked: mpsc::Receiver<Asked>,
}

/// Askers at one time, at each socket.
const MOST: usize = 16;
/// No request is longer.
const LONGEST: u64 = 64;
/// After a failure to take a request.
const PAUSE: Duration = Duration::from_secs(1);
/// Neither asking nor answering takes long.
const PATIENCE: Duration = Duration::from_secs(5);
const LONG_PATIENCE: Duration = Duration::from_secs(60);

impl Listener {
    /// `group` may ask for what changes nothing.
    pub fn open(instance: &str, group: Option<u32>) -> Result<Self> {
        let (sender, asked) = mpsc::channel(1);
        for door in Door::BOTH {
            let socket = door.bind(instance, group)?;
            tokio::spawn(accept(door, socket, sender.clone()));
        }
        Ok(Self {
            instance: instance.to_owned(),
            asked,
        })
    }

    pub async fn asked(&mut self) -> Option<Asked> {
        self.asked.recv().await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        for path in sockets(&self.instance) {
            let _ = fs::remove_file(path);
        }
    }
}

async fn accept(door: Door, socket: UnixListener, sender: mpsc::Sender<Asked>) {
    let slots = Arc::new(Semaphore::new(MOST));
    loop {
        // Nobody closes it. Who is one too many waits in the queue.
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        match socket.accept().await {
            // Each on its own, so that a slow one keeps nobody else waiting.
            Ok((stream, _)) => {
                let served = serve(door, stream, sender.clone());
                tokio::spawn(async move {
                    if let Err(error) = served.await {
                        tracing::debug!("control socket: {error:#}");
                    }
                    drop(slot);
                });
            }
            // As while there are too many open files: it waits in the queue.
            Err(error) => {
                tracing::warn!("control socket: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn serve(
    door: Door,
    stream: tokio::net::UnixStream,
    sender: mpsc::Sender<Asked>,
) -> Result<()> {
    if !door.admits(&stream)? {
        bail!("asked by somebody else");
    }
    let (read, mut write) = stream.into_split();
    let request = timeout(PATIENCE, read_request(read)).await??;
    if request.changes_something() && door == Door::Status {
        bail!("asked at the wrong door");
    }
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

/// The same, of a daemon that needn't be there.
pub fn ask_if_running<T: DeserializeOwned>(instance: &str, request: Request) -> Result<Option<T>> {
    match connect(instance, request) {
        Err(error) if is_nobody(&error) => Ok(None),
        connected => exchange(connected, instance, request).map(Some),
    }
}

fn is_nobody(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused)
}

/// The asking end.
pub fn ask<T: DeserializeOwned>(instance: &str, request: Request) -> Result<T> {
    exchange(connect(instance, request), instance, request)
}

fn connect(instance: &str, request: Request) -> io::Result<UnixStream> {
    UnixStream::connect(request.door().path(instance))
}

fn exchange<T: DeserializeOwned>(
    connected: io::Result<UnixStream>,
    instance: &str,
    request: Request,
) -> Result<T> {
    let mut stream = connected.map_err(|error| {
        let path = request.door().path(instance);
        let path = path.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                let who = match request.door() {
                    Door::Status => "as root, or as one of the daemon's --status-group",
                    Door::Control => "as root",
                };
                anyhow!("no permission to ask instance {instance} at {path}: run {who}")
            }
            _ => anyhow!("no daemon answers at {path}: is instance {instance} running?"),
        }
    })?;
    stream.set_read_timeout(Some(match request {
        // However long the files are.
        Request::Reload { .. }
        | Request::Drain { .. }
        | Request::EndDenied
        | Request::KeepLists
        | Request::EndUnlisted { .. } => LONG_PATIENCE,
        Request::Status | Request::Connections | Request::Lists => PATIENCE,
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
