//! TCP's options.

use aya_ebpf::programs::TcContext;
use network_types::tcp::TcpHdr;

use super::segment::Segment;
use crate::{
    bounds::bounded,
    ctx::{self, Unreadable},
    maps::Scratch,
    repeat::{MORE, STOP, repeat},
};

/// Room for a TCP header, and for reading an option behind its end. Zeroes follow the header.
pub type Header = [u32; 18];

const LEAST: u64 = TcpHdr::LEN as u64;
const MOST: u64 = 60;

/// What a segment's options say.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Options {
    pub value: u32,
    pub echo: u32,
    /// 0: not said.
    pub mss: u32,
    /// Plus one; 0: not said.
    pub scale: u32,
    pub sack: u32,
    pub timestamps: u32,
    /// Others than these, or badly written ones.
    pub others: u32,
    /// Where reading has got to.
    at: u32,
}

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: (u8, u8) = (2, 4);
const SCALE: (u8, u8) = (3, 3);
const SACK_PERMITTED: (u8, u8) = (4, 2);
const SACK: u8 = 5;
const TIMESTAMPS: (u8, u8) = (8, 10);

/// The header of `scratch.segment` into `scratch.header`, and what its options say into
/// `scratch.options`.
#[inline(never)]
pub fn read(ctx: &TcContext, scratch: &mut Scratch) -> Result<(), Unreadable> {
    let Segment { at: start, len, .. } = scratch.segment;
    scratch.header = [0; 18];
    scratch.options = Options {
        at: LEAST as u32,
        ..Options::default()
    };
    let header: *mut u8 = (&raw mut scratch.header).cast();
    let len = bounded::<LEAST, MOST>(len.into()).ok_or(Unreadable)?;
    ctx::load_bytes(ctx, start as usize, header, len)?;
    if usual(scratch, len) {
        return Ok(());
    }
    let mut walk = Walk { scratch, len };
    repeat((MOST - LEAST) as u32, option, &mut walk);
    Ok(())
}

/// Reads what Linux writes, and most others do, at once: a SYN's options, and of what follows the timestamps.
/// False: it is something else.
#[inline(always)]
fn usual(scratch: &mut Scratch, len: u64) -> bool {
    const SYN: u64 = LEAST + 20;
    const LATER: u64 = LEAST + 12;
    const PAIR: u32 = u32::from_be_bytes([
        SACK_PERMITTED.0,
        SACK_PERMITTED.1,
        TIMESTAMPS.0,
        TIMESTAMPS.1,
    ]);
    const ALONE: u32 = u32::from_be_bytes([NOP, NOP, TIMESTAMPS.0, TIMESTAMPS.1]);
    let [_, _, _, _, _, a, b, c, d, e, ..] = scratch.header.map(u32::from_be);
    let options = &mut scratch.options;
    let [value, echo] = match len {
        LATER if a == ALONE => [b, c],
        SYN if a >> 16 == u32::from(u16::from_be_bytes([MSS.0, MSS.1]))
            && b == PAIR
            && e >> 8 == u32::from_be_bytes([0, NOP, SCALE.0, SCALE.1]) =>
        {
            options.mss = a & 0xffff;
            options.sack = 1;
            options.scale = (e & 0xff) + 1;
            [c, d]
        }
        _ => return false,
    };
    options.timestamps = 1;
    options.value = value;
    options.echo = echo;
    true
}

struct Walk<'a> {
    scratch: &'a mut Scratch,
    /// Of the header.
    len: u64,
}

/// The next option.
unsafe extern "C" fn option(_: u64, walk: *mut Walk<'_>) -> i64 {
    // SAFETY: what `read` gave.
    let Walk { scratch, len } = unsafe { &mut *walk };
    let header: *const u8 = (&raw const scratch.header).cast();
    let options = &mut scratch.options;
    let at = options.at;
    if u64::from(at) >= *len || at >= MOST as u32 {
        return STOP;
    }
    // SAFETY: below 60, and ten bytes behind that are still of the buffer.
    let byte = |more: usize| unsafe { *header.add(at as usize + more) };
    let kind = byte(0);
    if kind == END {
        return STOP;
    }
    if kind == NOP {
        options.at = at + 1;
        return MORE;
    }
    let size = byte(1);
    let is_whole = u64::from(at) + u64::from(size) <= *len;
    if size < 2 || !is_whole {
        options.others = 1;
        return STOP;
    }
    let word = |more: usize| {
        u32::from_be_bytes([byte(more), byte(more + 1), byte(more + 2), byte(more + 3)])
    };
    match (kind, size) {
        MSS => options.mss = u16::from_be_bytes([byte(2), byte(3)]).into(),
        SCALE => options.scale = u32::from(byte(2)) + 1,
        SACK_PERMITTED => options.sack = 1,
        TIMESTAMPS => {
            options.timestamps = 1;
            options.value = word(2);
            options.echo = word(6);
        }
        (SACK, _) => {}
        _ => options.others = 1,
    }
    options.at = at + u32::from(size);
    MORE
}
