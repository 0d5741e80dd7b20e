//! Where the running kernel's structures have what the programs read of them.

/// In bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Offsets {
    /// Of `sk_buff`: its `net_device`.
    pub device: u32,
    /// Of `net_device`: the list of devices that it is a part of.
    pub upper: u32,
    /// Of `net_device`: netfilter's hooks where packets come in.
    pub ingress: u32,
    /// Of `net_device`: its `in_device`.
    pub v4: u32,
    /// Of `net_device`: its `net`.
    pub netns: u32,
    /// Of `in_device`: its own `rp_filter`.
    pub rp_filter: u32,
    /// Of `net`: the `ipv4_devconf` of all devices.
    pub all: u32,
    /// Of `ipv4_devconf`: `rp_filter`.
    pub all_rp_filter: u32,
    /// Of `net`: netfilter's hooks for each place on a packet's way.
    pub hooks4: u32,
    pub hooks6: u32,
    /// Of `net`: how many policies of IPsec there are, by direction.
    pub policies: u32,
    /// Of `net`: a byte for what becomes of what no policy is for, by direction.
    pub no_policy: u32,
    /// Of `sk_buff`: the byte that `ip_summed` is in.
    pub summed: u32,
    /// From which bit on it is there.
    pub summed_bit: u32,
}

impl Offsets {
    pub const UNKNOWN: Self = Self {
        device: 0,
        upper: 0,
        ingress: 0,
        v4: 0,
        netns: 0,
        rp_filter: 0,
        all: 0,
        all_rp_filter: 0,
        hooks4: 0,
        hooks6: 0,
        policies: 0,
        no_policy: 0,
        summed: 0,
        summed_bit: 0,
    };
}

layout! {
    Offsets = 56,
}
