//! The connections that are open, for whoever asks.
//!
//! Each worker has a list of its own: opening and closing take its lock, which nobody else wants
//! but a listing, and that holds it only to copy pointers.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use slab::Slab;
use tokio::task::AbortHandle;

use super::{Balancer, Client, Place, Service, Target};
use crate::header::{Command, KeptTlvs, Version};

/// A connection that the application accepted.
#[derive(Debug)]
pub struct Connection {
    pub service: Arc<Service>,
    pub balancer: Balancer,
    pub client: Client,
    pub target: Target,
    /// False: the application sees this host, and not the client.
    pub spoofed: bool,
    pub since: Instant,
    pub header: KeptHeader,
    pub moved: Moved,
    /// None: the balancer speaks for itself, which counts for nobody.
    pub place: Option<Place>,
    /// Aborted, it drops both sockets.
    pub(super) task: AbortHandle,
}

/// What is remembered of a header.
#[derive(Debug)]
pub struct KeptHeader {
    pub version: Version,
    pub command: Command,
    pub tlvs: KeptTlvs,
}

/// Bytes that the other side has taken.
#[derive(Debug, Default)]
pub struct Moved {
    pub up: Bytes,
    pub down: Bytes,
}

/// Only the connection's own thread counts, so adding is a load and a store, no locked instruction.
#[derive(Debug, Default)]
pub struct Bytes(AtomicU64);

impl Bytes {
    pub fn add(&self, count: usize) {
        self.0.store(self.get() + count as u64, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Every worker's list.
#[derive(Clone, Default)]
pub struct Connections(Arc<Mutex<Vec<Arc<List>>>>);

/// One worker's.
#[derive(Default)]
pub struct List(Mutex<Slab<Arc<Connection>>>);

impl Connections {
    /// A list for one more worker.
    pub fn list(&self) -> Arc<List> {
        let list = Arc::default();
        lock(&self.0).push(Arc::clone(&list));
        list
    }

    /// Those open now, one worker's at a time. Others open and close meanwhile.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Connection>> + use<> {
        let lists = lock(&self.0).clone();
        lists.into_iter().flat_map(|list| list.copy())
    }

    /// Resets those that `wanted` picks, on both sides; returns how many there were.
    pub fn end(&self, wanted: impl Fn(&Connection) -> bool) -> usize {
        let wanted = self.iter().filter(|connection| wanted(connection));
        wanted.inspect(|connection| connection.task.abort()).count()
    }
}

impl List {
    /// Lists a connection until the guard is dropped.
    pub fn enter(&self, connection: Arc<Connection>) -> Listed<'_> {
        let key = lock(&self.0).insert(connection.clone());
        Listed {
            list: self,
            key,
            connection,
        }
    }

    fn copy(&self) -> Vec<Arc<Connection>> {
        let open = lock(&self.0);
        open.iter()
            .map(|(_, connection)| connection.clone())
            .collect()
    }
}

/// A connection that is listed.
pub struct Listed<'a> {
    list: &'a List,
    key: usize,
    pub connection: Arc<Connection>,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        lock(&self.list.0).try_remove(self.key);
        // Somebody may be about to tell of it.
        if let Some(place) = &self.connection.place {
            place.release();
        }
    }
}

/// A panic elsewhere leaves a list as good as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
