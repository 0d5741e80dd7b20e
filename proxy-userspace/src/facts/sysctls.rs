//! The few settings that decide, from /proc. They change without an event, so they are read again
//! and again: their files stay open.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::PathBuf};

use super::Family;

/// What they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctls {
    pub syncookies: bool,
    pub conntrack: Conntrack,
    /// Whether rp_filter would drop a client's packet that enters by `lo`.
    pub strict_lo: bool,
    /// And by truepeer's own device: somebody has changed what it was made with.
    pub strict_veth: bool,
    pub offers: Offers,
    /// Whether truepeer's own device forwards, which `bpf_fib_lookup` asks for.
    pub forwards: Forwards,
    /// Tables of iptables-legacy, which nft doesn't show, of both families.
    pub legacy_tables: Vec<String>,
}

/// Whether a connection may begin in its midst, as it does for conntrack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conntrack {
    Absent,
    Loose,
    Strict,
}

/// The options that a SYN-ACK may have: the kernel takes no connection that was offered others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offers {
    pub timestamps: bool,
    pub sack: bool,
    /// The scale of our windows; none while scaling is off.
    pub window_scale: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwards {
    pub v4: bool,
    pub v6: bool,
}

impl Forwards {
    pub const fn of(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

/// A file that may come and go, as a module's do.
struct Setting {
    path: PathBuf,
    file: Option<File>,
}

impl Setting {
    fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            file: None,
        }
    }

    /// None while there is no such setting.
    fn read(&mut self) -> Option<String> {
        self.try_read().ok()
    }

    fn try_read(&mut self) -> io::Result<String> {
        // Longer than any of them.
        let mut buffer = [0; 256];
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        let len = file.read_at(&mut buffer, 0)?;
        self.file = Some(file);
        Ok(String::from_utf8_lossy(&buffer[..len]).trim().to_owned())
    }

    fn number(&mut self) -> Option<u32> {
        self.read()?.parse().ok()
    }

    /// Anything but 0; `absent` where there is no such setting.
    fn is_on(&mut self, absent: bool) -> bool {
        self.number().map_or(absent, |value| value != 0)
    }
}

/// The open files, of the network namespace that [`Self::new`] was called in.
pub struct Settings {
    syncookies: Setting,
    tcp_loose: Setting,
    /// Of all devices, lo and truepeer's own.
    rp_filter: [Setting; 3],
    timestamps: Setting,
    sack: Setting,
    window_scaling: Setting,
    tcp_rmem: Setting,
    rmem_max: Setting,
    forwarding: [Setting; 2],
    legacy_tables: [Setting; 2],
}

impl Settings {
    pub fn new(device: &str) -> Self {
        let net = |key: &str| Setting::new(format!("/proc/sys/net/{key}"));
        let table = |name: &str| Setting::new(format!("/proc/thread-self/net/{name}"));
        Self {
            syncookies: net("ipv4/tcp_syncookies"),
            tcp_loose: net("netfilter/nf_conntrack_tcp_loose"),
            rp_filter: ["all", "lo", device].map(rp_filter),
            timestamps: net("ipv4/tcp_timestamps"),
            sack: net("ipv4/tcp_sack"),
            window_scaling: net("ipv4/tcp_window_scaling"),
            tcp_rmem: net("ipv4/tcp_rmem"),
            rmem_max: net("core/rmem_max"),
            forwarding: ["ipv4", "ipv6"].map(|ip| net(&format!("{ip}/conf/{device}/forwarding"))),
            legacy_tables: ["ip_tables_names", "ip6_tables_names"].map(table),
        }
    }

    pub fn read(&mut self) -> Sysctls {
        let [v4, v6] = self.forwarding.each_mut().map(|it| it.is_on(false));
        let tables = self.legacy_tables.iter_mut().filter_map(Setting::read);
        let mut legacy_tables: Vec<String> = tables
            .flat_map(|names| names.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        legacy_tables.sort_unstable();
        legacy_tables.dedup();
        Sysctls {
            // Without CONFIG_SYN_COOKIES there is no such file.
            syncookies: self.syncookies.is_on(false),
            conntrack: match self.tcp_loose.number() {
                None => Conntrack::Absent,
                Some(0) => Conntrack::Strict,
                Some(_) => Conntrack::Loose,
            },
            strict_lo: self.is_lo_strict(),
            strict_veth: self.is_veth_strict(),
            offers: Offers {
                timestamps: self.timestamps.is_on(true),
                sack: self.sack.is_on(true),
                window_scale: self.window_scaling.is_on(true).then(|| self.window_scale()),
            },
            forwards: Forwards { v4, v6 },
            legacy_tables,
        }
    }

    fn is_lo_strict(&mut self) -> bool {
        let [all, lo, _] = self.rp_filter.each_mut().map(Setting::number);
        is_strict(all, lo)
    }

    fn is_veth_strict(&mut self) -> bool {
        let [all, _, veth] = self.rp_filter.each_mut().map(Setting::number);
        is_strict(all, veth)
    }

    /// As `tcp_select_initial_window` finds it for a listener without a buffer of its own.
    fn window_scale(&mut self) -> u8 {
        let rmem = self.tcp_rmem.read().unwrap_or_default();
        let largest = rmem.split_whitespace().nth(2);
        let largest = largest.and_then(|bytes| bytes.parse().ok());
        window_scale(largest.max(self.rmem_max.number()).unwrap_or_default())
    }
}

fn rp_filter(device: &str) -> Setting {
    Setting::new(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"))
}

/// Whether rp_filter is strict at a device, in the calling thread's network namespace.
pub fn is_strict_at(device: &str) -> bool {
    let [all, device] = ["all", device].map(|device| rp_filter(device).number());
    is_strict(all, device)
}

/// The kernel takes the larger of `all` and the device's, and only 1 is strict.
fn is_strict(all: Option<u32>, device: Option<u32>) -> bool {
    const STRICT: u32 = 1;
    all.max(device) == Some(STRICT)
}

/// So that a window of `space` bytes can be told in 16 bits.
fn window_scale(space: u32) -> u8 {
    const PLAIN_BITS: u32 = 15;
    const LARGEST: u32 = 14;
    let scale = space.checked_ilog2().unwrap_or_default();
    let scale = scale.saturating_sub(PLAIN_BITS).min(LARGEST);
    u8::try_from(scale).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_the_kernels() {
        for (space, scale) in [
            (0, 0),
            (65_535, 0),
            (65_536, 1),
            // The default of tcp_rmem on most hosts.
            (6 << 20, 7),
            (32 << 20, 10),
            (u32::MAX, 14),
        ] {
            assert_eq!(window_scale(space), scale, "{space}");
        }
    }
}
