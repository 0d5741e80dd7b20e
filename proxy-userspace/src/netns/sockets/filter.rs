//! The kernel's own little language for picking sockets (INET_DIAG_REQ_BYTECODE): jumps over
//! comparisons, and a socket is listed if the end is met exactly.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

// Of linux/inet_diag.h.
const JUMP: u8 = 1;
const LOCAL_IS: u8 = 7;
/// Any port at all.
const ANY: i32 = -1;

/// struct inet_diag_bc_op.
const STEP: usize = 4;

/// As many as one filter takes: a jump goes 64 KiB at most.
pub const MOST: usize = 1000;

/// A socket's own end.
#[derive(Clone, Copy, Debug)]
pub enum Local {
    /// At any port of any of these addresses.
    Net(IpNet),
    /// At any address.
    Port(u16),
}

impl Local {
    pub const ANY: [Self; 2] = [
        Self::Net(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0))),
        Self::Net(IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0))),
    ];
}

impl From<IpAddr> for Local {
    fn from(address: IpAddr) -> Self {
        Self::Net(address.to_canonical().into())
    }
}

impl From<IpNet> for Local {
    fn from(net: IpNet) -> Self {
        Self::Net(net)
    }
}

/// What lists sockets whose own end is one of these, [`MOST`] at most.
pub fn local_is_one_of(locals: &[Local]) -> Vec<u8> {
    // From behind: each comparison has to know how far the end is.
    locals.iter().rev().fold(Vec::new(), |rest, local| {
        let condition = condition(*local);
        let comparison = STEP + condition.len();
        // The last one's miss leads beyond the end, which is how to say no.
        let mut program = step(LOCAL_IS, comparison, comparison + STEP);
        program.extend(condition);
        if !rest.is_empty() {
            program.extend(step(JUMP, STEP, STEP + rest.len()));
        }
        program.extend(rest);
        program
    })
}

/// A step, and how far it is to the next one after a hit and after a miss. A jump always misses.
fn step(code: u8, hit: usize, miss: usize) -> Vec<u8> {
    // The kernel refuses a step of 255 bytes, as it is no multiple of four.
    let hit = u8::try_from(hit).unwrap_or(u8::MAX);
    let [low, high] = u16::try_from(miss).unwrap_or(u16::MAX).to_ne_bytes();
    vec![code, hit, low, high]
}

/// struct inet_diag_hostcond: an IPv4 address meets mapped ones as well.
fn condition(local: Local) -> Vec<u8> {
    let (family, bits, bytes, port) = match local {
        Local::Net(IpNet::V4(v4)) => {
            let bytes = v4.addr().octets().to_vec();
            (libc::AF_INET, v4.prefix_len(), bytes, ANY)
        }
        Local::Net(IpNet::V6(v6)) => {
            let bytes = v6.addr().octets().to_vec();
            (libc::AF_INET6, v6.prefix_len(), bytes, ANY)
        }
        Local::Port(port) => (libc::AF_UNSPEC, 0, Vec::new(), port.into()),
    };
    let number = |value: i32| u8::try_from(value).unwrap_or_default();
    let mut condition = vec![number(family), bits, 0, 0];
    condition.extend(port.to_ne_bytes());
    condition.extend(bytes);
    condition
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs it as inet_diag_bc_run() does.
    fn lists(program: &[u8], local: &str) -> bool {
        let local = Local::from(local.parse::<IpAddr>().expect("an IP"));
        let mut at = 0;
        while at < program.len() {
            let [code, hit, low, high] = program[at..at + 4] else {
                unreachable!()
            };
            let wanted = condition(local);
            let is = code == LOCAL_IS && program[at + 4..].starts_with(&wanted);
            let miss = usize::from(u16::from_ne_bytes([low, high]));
            at += if is { hit.into() } else { miss };
        }
        at == program.len()
    }

    #[test]
    fn lists_these_and_no_others() {
        let all = ["169.254.80.80", "fd74::1", "169.254.80.81"];
        for count in 1..=all.len() {
            let some: Vec<Local> = all[..count]
                .iter()
                .map(|ip| ip.parse::<IpAddr>().expect("ip").into())
                .collect();
            let program = local_is_one_of(&some);
            for (n, ip) in all.iter().enumerate() {
                assert_eq!(lists(&program, ip), n < count, "{ip} of {some:?}");
            }
            assert!(!lists(&program, "192.0.2.1"));
        }
    }

    #[test]
    fn takes_as_many_as_it_says() {
        let many: Vec<Local> = (0..1000u32)
            .map(|n| Local::from(IpAddr::V4(n.into())))
            .collect();
        let program = local_is_one_of(&many[..MOST]);
        assert!(lists(&program, "0.0.0.0"));
        assert!(lists(&program, "0.0.3.231"));
        assert!(!lists(&program, "0.0.3.232"));
    }
}
