//! A connection's two sockets, and what has moved from each to the other.

use std::cell::Cell;

use tokio::net::TcpStream;

use super::{
    Connection,
    open::{Bytes, Moved},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
}

impl Direction {
    pub const fn opposite(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}

/// What one direction has moved.
pub struct Gauge<'a> {
    moved: &'a Bytes,
    /// The source has no more.
    ended: Cell<bool>,
}

impl<'a> Gauge<'a> {
    const fn new(moved: &'a Bytes) -> Self {
        Self {
            moved,
            ended: Cell::new(false),
        }
    }

    pub fn end(&self) {
        self.ended.set(true);
    }

    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// So much was given to the sink.
    pub fn add(&self, count: usize) {
        self.moved.add(count);
    }

    pub fn get(&self) -> u64 {
        self.moved.get()
    }
}

pub struct Ends<'a> {
    downstream: &'a TcpStream,
    upstream: &'a TcpStream,
    pub up: Gauge<'a>,
    pub down: Gauge<'a>,
}

impl<'a> Ends<'a> {
    pub fn new(
        connection: &'a Connection,
        downstream: &'a TcpStream,
        upstream: &'a TcpStream,
    ) -> Self {
        let Moved { up, down } = &connection.moved;
        Self {
            downstream,
            upstream,
            up: Gauge::new(up),
            down: Gauge::new(down),
        }
    }

    /// Where this direction comes from.
    pub const fn from(&self, direction: Direction) -> &'a TcpStream {
        match direction {
            Direction::Up => self.downstream,
            Direction::Down => self.upstream,
        }
    }

    pub const fn gauge(&self, direction: Direction) -> &Gauge<'a> {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }
}
