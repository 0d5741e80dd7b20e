//! Packets to run programs with.

use std::net::SocketAddr;

use super::bench::{Bench, Family};
use crate::lab::addr::{BALANCER, HOST, TRUEPEER_PORT};
use crate::lab::forge::{ACK, SYN, SYN_OPTIONS, Segment};

pub const ETHERNET: usize = 14;

pub fn ip_length(is_v4: bool) -> usize {
    if is_v4 { 20 } else { 40 }
}

/// From a balancer's address to the service.
pub fn between<'a>(family: Family, port: u16) -> Segment<'a> {
    Segment::between(family(BALANCER, port), family(HOST, TRUEPEER_PORT))
}

pub fn syn<'a>(family: Family, port: u16) -> Segment<'a> {
    Segment {
        number: 1000,
        flags: SYN,
        options: SYN_OPTIONS,
        ..between(family, port)
    }
}

pub fn ack<'a>(family: Family, port: u16) -> Segment<'a> {
    Segment {
        number: 1001,
        acknowledged: 0x1234_5678,
        flags: ACK,
        ..between(family, port)
    }
}

pub fn from_to<'a>(from: SocketAddr, to: SocketAddr, flags: u8) -> Segment<'a> {
    Segment {
        number: 1000,
        acknowledged: 2000,
        flags,
        ..Segment::between(from, to)
    }
}

impl Bench {
    /// A frame of the balancer's.
    pub fn frame(&self, segment: &Segment<'_>) -> Vec<u8> {
        segment.frame([self.hosts_mac, self.balancers_mac])
    }
}

/// Puts eight bytes between IP's header and TCP's: options of nothing, in either family.
pub fn lengthen_ip(mut frame: Vec<u8>) -> Vec<u8> {
    const TCP: u8 = 6;
    const DESTINATION_OPTIONS: u8 = 60;
    if frame[ETHERNET] >> 4 == 4 {
        frame[ETHERNET] = 0x47;
        add_8(&mut frame, ETHERNET + 2);
        frame.splice(ETHERNET + 20..ETHERNET + 20, [1; 8]);
        frame[ETHERNET + 10..ETHERNET + 12].fill(0);
        let sum = crate::lab::forge::sum(&frame[ETHERNET..ETHERNET + 28]);
        let sum = crate::lab::forge::checksum(sum);
        frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum);
    } else {
        frame[ETHERNET + 6] = DESTINATION_OPTIONS;
        add_8(&mut frame, ETHERNET + 4);
        let options = [TCP, 0, 1, 4, 0, 0, 0, 0];
        frame.splice(ETHERNET + 40..ETHERNET + 40, options);
    }
    frame
}

fn add_8(frame: &mut [u8], at: usize) {
    let length = u16::from_be_bytes([frame[at], frame[at + 1]]) + 8;
    frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
}
