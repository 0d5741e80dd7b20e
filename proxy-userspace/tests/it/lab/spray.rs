//! Forged segments in great numbers, straight onto a link.

use std::io::IoSlice;

use anyhow::{Context, Result, ensure};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use socket2::Socket;

use super::forge::Segment;
use super::netns::Netns;

/// How many go with one system call.
const BATCH: usize = 256;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// The six bytes of an Ethernet address.
pub type Mac = [u8; 6];
/// Nobody's: locally administered, and not what any kernel picks.
pub const NOBODYS: Mac = [0x02, 0xde, 0xad, 0xbe, 0xef, 0x00];

pub struct Spray {
    socket: Socket,
    to: Mac,
}

impl Spray {
    /// By `device` of `netns`, in frames for `to`, which is what the other end of the link has or not.
    pub fn onto(netns: &Netns, device: &str, to: Mac) -> Result<Self> {
        let socket = super::raw::sender(netns, device)?;
        Ok(Self { socket, to })
    }

    /// Sends all of them, in order; returns how many. A link that is full is waited for.
    pub fn send<'a>(&self, segments: impl IntoIterator<Item = Segment<'a>>) -> Result<u64> {
        let mut segments = segments.into_iter();
        let mut frames: Vec<Vec<u8>> = vec![Vec::new(); BATCH];
        let mut sent = 0;
        loop {
            let mut count = 0;
            for (frame, segment) in frames.iter_mut().zip(segments.by_ref().take(BATCH)) {
                self.write(&segment, frame);
                count += 1;
            }
            if count == 0 {
                return Ok(sent);
            }
            self.send_frames(&frames[..count])?;
            sent += u64::try_from(count)?;
        }
    }

    fn write(&self, segment: &Segment<'_>, frame: &mut Vec<u8>) {
        const FROM: Mac = [0x02, 0, 0, 0, 0, 0x66];
        frame.clear();
        frame.extend(self.to);
        frame.extend(FROM);
        frame.extend(if segment.to.is_ipv4() { IPV4 } else { IPV6 });
        segment.write(frame);
    }

    fn send_frames(&self, mut frames: &[Vec<u8>]) -> Result<()> {
        while !frames.is_empty() {
            let slices: Vec<_> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
            let mut none: Vec<_> = frames
                .iter()
                .map(|_| SendAncillaryBuffer::default())
                .collect();
            let mut messages: Vec<_> = slices
                .iter()
                .zip(&mut none)
                .map(|(slice, none)| MMsgHdr::new(slice, none))
                .collect();
            let count = match sendmmsg(&self.socket, &mut messages, SendFlags::empty()) {
                Ok(count) => count,
                // Bypassing the queue, a full device says so at once.
                Err(rustix::io::Errno::NOBUFS) => continue,
                Err(error) => return Err(error).context("sending forged segments"),
            };
            frames = &frames[count..];
        }
        Ok(())
    }
}

impl Netns {
    /// The Ethernet address of a device.
    pub fn mac(&self, device: &str) -> Result<Mac> {
        let described = self.run(&format!("ip -o link show dev {device}"))?;
        let mut words = described.split_whitespace();
        words.find(|word| *word == "link/ether");
        let text = words
            .next()
            .with_context(|| format!("no MAC in {described}"))?;
        let mut mac = Mac::default();
        ensure!(text.split(':').count() == mac.len(), "{text}");
        for (byte, hex) in mac.iter_mut().zip(text.split(':')) {
            *byte = u8::from_str_radix(hex, 16)?;
        }
        Ok(mac)
    }
}
