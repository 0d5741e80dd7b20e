//! Bulk data that is checked on arrival, byte by byte and in order.

use std::io::{Read, Write};

use anyhow::{Result, ensure};

use super::random::Random;

/// A prime: blocks lost, doubled or swapped by anything that works in powers of two don't line up.
const PERIOD: usize = 1_000_003;

/// An endless stream that both ends can compute.
pub struct Payload(Vec<u8>);

impl Payload {
    pub fn new(seed: u64) -> Self {
        Self::of_period(PERIOD, seed)
    }

    /// One that is quickly made, for a few thousand bytes.
    pub fn short(seed: u64) -> Self {
        const PRIME: usize = 4093;
        Self::of_period(PRIME, seed)
    }

    fn of_period(period: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        // A small seed has small numbers at first, with one byte as good as another.
        for _ in 0..u64::BITS {
            random.next();
        }
        let mut bytes = vec![0; period];
        for word in bytes.chunks_mut(size_of::<u64>()) {
            word.copy_from_slice(&random.next().to_le_bytes()[..word.len()]);
        }
        Self(bytes)
    }

    pub fn send(&self, to: &mut impl Write, length: usize) -> Result<()> {
        self.send_from(to, 0, length)
    }

    /// The bytes from `start` to `end`.
    pub fn send_from(&self, to: &mut impl Write, start: usize, end: usize) -> Result<()> {
        let mut at = start;
        while at < end {
            let piece = self.piece(at, end - at);
            to.write_all(piece)?;
            at += piece.len();
        }
        Ok(())
    }

    /// What one write may take at `at`.
    pub fn piece(&self, at: usize, most: usize) -> &[u8] {
        let period = self.0.len();
        let start = at % period;
        let end = period.min(start.saturating_add(most));
        &self.0[start..end]
    }

    /// Reads to the end of the stream, and fails unless it is the first `length` bytes.
    pub fn receive(&self, from: &mut impl Read, length: usize) -> Result<()> {
        let at = self.receive_all(from)?;
        ensure!(
            at == length,
            "the stream ended after {at} of {length} bytes"
        );
        Ok(())
    }

    /// Reads to the end of the stream; returns how long it was.
    pub fn receive_all(&self, from: &mut impl Read) -> Result<usize> {
        self.receive_up_to(from, 0, usize::MAX)
    }

    /// Reads the bytes from `start` to `end`, and no more.
    pub fn receive_from(&self, from: &mut impl Read, start: usize, end: usize) -> Result<()> {
        let at = self.receive_up_to(from, start, end)?;
        ensure!(at == end, "the stream ended after {at} of {end} bytes");
        Ok(())
    }

    fn receive_up_to(&self, from: &mut impl Read, start: usize, end: usize) -> Result<usize> {
        let mut buffer = vec![0; 256 * 1024];
        let mut at = start;
        while at < end {
            let most = buffer.len().min(end - at);
            let count = from.read(&mut buffer[..most])?;
            if count == 0 {
                break;
            }
            self.check(at, &buffer[..count])?;
            at += count;
        }
        Ok(at)
    }

    /// Fails unless these are the bytes from `start` on.
    pub fn check(&self, start: usize, mut got: &[u8]) -> Result<()> {
        let mut at = start;
        while !got.is_empty() {
            let want = self.piece(at, got.len());
            let (head, rest) = got.split_at(want.len());
            ensure!(
                head == want,
                "not the bytes that were sent, after byte {at}"
            );
            at += head.len();
            got = rest;
        }
        Ok(())
    }
}
