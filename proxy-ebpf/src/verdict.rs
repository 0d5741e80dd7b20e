//! What becomes of a packet.

use proxy_common::Counter;

/// Each part has a value, whatever the action: what an enum's variant doesn't have, the compiler copies
/// all the same where it treats variants alike, and the verifier refuses that.
///
/// ```text
/// 1101: (bf) r6 = r1
/// R1 !read_ok
/// ```
#[derive(Clone, Copy)]
pub struct Verdict {
    pub action: Action,
    pub device: u32,
    /// What it is counted as.
    pub why: Counter,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It goes on, and isn't counted.
    Ignore,
    /// It goes on.
    Pass,
    /// It goes on to the stack, and no other program of this device sees it.
    Accept,
    Drop,
    /// Out by the device, as it is addressed.
    Out,
    /// Out by the device; the kernel finds the neighbour.
    ByRoute,
    /// In by the device.
    In,
}

impl Verdict {
    /// None of ours, or the stack's to answer.
    pub const FOREIGN: Self = Self::to(Action::Ignore, 0, Counter::DispatchAccepted);

    #[inline(always)]
    pub const fn pass(why: Counter) -> Self {
        Self::to(Action::Pass, 0, why)
    }

    #[inline(always)]
    pub const fn drop(why: Counter) -> Self {
        Self::to(Action::Drop, 0, why)
    }

    #[inline(always)]
    pub const fn to(action: Action, device: u32, why: Counter) -> Self {
        Self {
            action,
            device,
            why,
        }
    }
}
