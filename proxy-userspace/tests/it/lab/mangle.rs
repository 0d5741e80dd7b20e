//! What networks and other people's stacks make of TCP over IP, packet by packet: each function takes
//! a packet of TCP as Linux sends it, and returns what comes out of the wire instead.

use super::forge::{checksum, sum};
use super::packet::TCP;

/// Of the fragments, but the last.
const FRAGMENT: usize = 512;
const MORE_V4: u8 = 0x20;
/// Next headers of IPv6.
const FRAGMENTED: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Cuts everything that is longer than a fragment, in either family.
pub fn fragment(packet: &[u8]) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(header_length(packet));
    if payload.len() <= FRAGMENT {
        return vec![packet.to_vec()];
    }
    let mut fragments: Vec<_> = Vec::new();
    for (number, piece) in payload.chunks(FRAGMENT).enumerate() {
        let offset = number * FRAGMENT;
        let more = offset + piece.len() < payload.len();
        fragments.push(if is_v4(packet) {
            fragment_v4(header, piece, offset, more)
        } else {
            fragment_v6(
                header,
                piece,
                offset | usize::from(more),
                number_of(payload),
            )
        });
    }
    fragments
}

fn fragment_v4(header: &[u8], piece: &[u8], offset: usize, more: bool) -> Vec<u8> {
    let mut header = header.to_vec();
    let [high, low] = be16(offset / 8);
    // without "don't fragment"
    header[6] = high | if more { MORE_V4 } else { 0 };
    header[7] = low;
    finish_v4(&mut header, piece.len());
    [&header, piece].concat()
}

/// `place` is the offset, and 1 if more follow.
fn fragment_v6(header: &[u8], piece: &[u8], place: usize, packet: [u8; 4]) -> Vec<u8> {
    let mut header = header.to_vec();
    header[6] = FRAGMENTED;
    header[4..6].copy_from_slice(&be16(8 + piece.len()));
    header.extend([TCP, 0]);
    header.extend(be16(place));
    header.extend(packet);
    [&header, piece].concat()
}

/// The sequence number: it is another one for each packet with data.
fn number_of(segment: &[u8]) -> [u8; 4] {
    *segment[4..].first_chunk().expect("a TCP header")
}

/// IPv4 with two words of options that mean nothing, IPv6 with a header of destination options.
pub fn ip_options(packet: &[u8]) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(header_length(packet));
    let mut header = header.to_vec();
    if is_v4(packet) {
        header[0] += 2;
        // seven times "no operation", and the end
        header.extend([1, 1, 1, 1, 1, 1, 1, 0]);
        finish_v4(&mut header, payload.len());
    } else {
        let next = header[6];
        header[6] = DESTINATION_OPTIONS;
        header[4..6].copy_from_slice(&be16(8 + payload.len()));
        // one option, PadN with four bytes
        header.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    vec![[&header, payload].concat()]
}

/// Timestamps first and the two NOPs behind them, as stacks do that aren't Linux. The same words in
/// another order have the same checksum.
pub fn timestamps_first(packet: &[u8]) -> Vec<Vec<u8>> {
    const PADDED: [u8; 4] = [1, 1, 8, 10];
    const LENGTH: usize = 12;
    let mut packet = packet.to_vec();
    let tcp = header_length(&packet);
    let words = packet[tcp + 12] >> 4;
    let options = tcp + 20..tcp + usize::from(words) * 4;
    let options = packet.get_mut(options).unwrap_or_default();
    if let Some(found) = options.get_mut(..LENGTH)
        && found.starts_with(&PADDED)
    {
        found.rotate_left(2);
    }
    vec![packet]
}

fn is_v4(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4
}

fn header_length(packet: &[u8]) -> usize {
    if is_v4(packet) {
        usize::from(packet[0] & 0x0f) * 4
    } else {
        40
    }
}

fn finish_v4(header: &mut [u8], payload: usize) {
    let total = be16(header.len() + payload);
    header[2..4].copy_from_slice(&total);
    header[10..12].fill(0);
    let sum = checksum(sum(header));
    header[10..12].copy_from_slice(&sum);
}

fn be16(number: usize) -> [u8; 2] {
    u16::try_from(number).expect("16 bits").to_be_bytes()
}
