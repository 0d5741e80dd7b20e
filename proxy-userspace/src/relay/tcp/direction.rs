//! The two directions of a connection, and what each has moved.

use std::cell::Cell;

use tokio::net::TcpStream;

use crate::relay::{
    Connection,
    open::{Bytes, Moved},
};

pub struct Direction<'a> {
    pub from: &'a TcpStream,
    pub to: &'a TcpStream,
    moved: &'a Bytes,
    /// The source has no more.
    ended: Cell<bool>,
}

impl<'a> Direction<'a> {
    /// Up and down.
    pub fn both(
        connection: &'a Connection,
        downstream: &'a TcpStream,
        upstream: &'a TcpStream,
    ) -> [Self; 2] {
        let Moved { up, down } = &connection.moved;
        [(downstream, upstream, up), (upstream, downstream, down)].map(|(from, to, moved)| Self {
            from,
            to,
            moved,
            ended: Cell::new(false),
        })
    }

    pub fn end(&self) {
        self.ended.set(true);
    }

    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// The sink has taken so much.
    pub fn add(&self, count: usize) {
        self.moved.add(count);
    }

    pub fn moved(&self) -> u64 {
        self.moved.get()
    }
}
