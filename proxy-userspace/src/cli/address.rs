//! Addresses with ports, as people type them: what is wrong with this one, and what to write instead.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use crate::config::misread;

/// The families that a flag takes, and what it is called for the other one.
pub trait Family: Sized {
    /// What somebody who gave a port alone may have meant.
    fn without_address(port: &str) -> String;

    fn of(addr: SocketAddr) -> Result<Self, String>;
}

impl Family for SocketAddr {
    fn without_address(port: &str) -> String {
        format!(
            "there is no address: write 0.0.0.0:{port} for all IPv4 addresses, [::]:{port} for all of both \
             families"
        )
    }

    fn of(addr: SocketAddr) -> Result<Self, String> {
        Ok(addr)
    }
}

impl Family for std::net::SocketAddrV4 {
    fn without_address(port: &str) -> String {
        format!("there is no address: write 127.0.0.1:{port} for this host")
    }

    fn of(addr: SocketAddr) -> Result<Self, String> {
        match addr {
            SocketAddr::V4(v4) => Ok(v4),
            SocketAddr::V6(v6) => Err(format!("that is an IPv6 address: write --target6 {v6}")),
        }
    }
}

impl Family for std::net::SocketAddrV6 {
    fn without_address(port: &str) -> String {
        format!("there is no address: write [::1]:{port} for this host")
    }

    fn of(addr: SocketAddr) -> Result<Self, String> {
        match addr {
            SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
                Some(v4) => Err(format!(
                    "that is an IPv4 address: write --target4 {v4}:{}",
                    v6.port()
                )),
                None => Ok(v6),
            },
            SocketAddr::V4(v4) => Err(format!("that is an IPv4 address: write --target4 {v4}")),
        }
    }
}

pub fn parse<A: Family>(text: &str) -> Result<A, String> {
    let (host, port) = split::<A>(text)?;
    let address = address(host, port)?;
    A::of(SocketAddr::new(address, self::port(port)?))
}

/// Address and port, as far as there are both.
fn split<A: Family>(text: &str) -> Result<(&str, &str), String> {
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(format!("there is no {scheme}:// here: write {rest}"));
    }
    if text.starts_with("unix:") || text.starts_with('/') {
        return Err("a Unix socket has no client's address: write an address and a port".into());
    }
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Err(brackets(text));
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(A::without_address(text));
    }
    match text.rsplit_once(':') {
        Some(("", port)) => Err(A::without_address(port)),
        Some((host, port)) if !port.contains(']') => Ok((host, port)),
        _ => Err(format!("there is no port: write {text}:PORT")),
    }
}

/// For an IPv6 address without them, whose last part may be meant as the port.
fn brackets(text: &str) -> String {
    let with_port = text.rsplit_once(':').filter(|(host, port)| {
        let host = host.parse::<std::net::Ipv6Addr>();
        host.is_ok() && self::port(port).is_ok_and(|port| port != 0)
    });
    let with_port = with_port.map(|(host, port)| format!("[{host}]:{port} or "));
    format!(
        "an IPv6 address stands in brackets before its port: write {}[{text}]:PORT",
        with_port.unwrap_or_default()
    )
}

fn address(host: &str, port: &str) -> Result<IpAddr, String> {
    if let Some((before, _)) = host.split_once('%') {
        return Err(match before.trim_start_matches('[').parse::<std::net::Ipv6Addr>() {
            Ok(v6) if !v6.is_unicast_link_local() => {
                format!("an address has no zone here: write [{v6}]:{port}")
            }
            _ => "an address has no zone here, and so no link-local one can be taken: write another \
                  address of that host"
                .into(),
        });
    }
    if host.contains('/') {
        return Err(format!(
            "{host} is a network: write one address, or 0.0.0.0:{port} for all of them"
        ));
    }
    let inside = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    match (inside, host.parse::<IpAddr>()) {
        (None, Ok(IpAddr::V6(v6))) => Err(format!(
            "an IPv6 address stands in brackets before its port: write [{v6}]:{port}"
        )),
        (None, Ok(v4)) => Ok(v4),
        (Some(v6), _) => std::net::Ipv6Addr::from_str(v6)
            .map(Into::into)
            .map_err(|_| format!("{v6} is no IPv6 address: write one as in [::1]:{port}")),
        (None, Err(_)) if host.contains(|c: char| c.is_ascii_alphabetic()) => Err(format!(
            "{host} is a name: write its address, as in 127.0.0.1:{port} (`getent ahosts {host}` \
             shows it)"
        )),
        (None, Err(_)) if host.starts_with('[') => {
            Err(format!("a bracket is missing: write {host}]:{port}"))
        }
        (None, Err(_))
            if host
                .split('.')
                .any(|part| part.len() > 1 && part.starts_with('0')) =>
        {
            Err(format!(
                "{host} has a leading zero: write its numbers without"
            ))
        }
        (None, Err(_)) => Err(format!(
            "{host} is no address: write one as in 127.0.0.1:{port}"
        )),
    }
}

/// One without a port.
pub fn alone(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        let network = text.split_once('/').map(|(address, len)| {
            format!("/{len} makes it a network: write one address, as in {address}")
        });
        let wrong = misread(text).or(network);
        wrong.unwrap_or_else(|| "write an address, as in 192.0.2.1".into())
    })
}

/// Digits only: `+80` and `080` are somebody's mistake.
fn port(text: &str) -> Result<u16, String> {
    let is_plain = text == "0" || !text.starts_with(['+', '0']);
    if let Some(port) = text.parse().ok().filter(|_| is_plain) {
        return Ok(port);
    }
    Err(match text.split_once('-') {
        Some((first, last)) if !first.is_empty() && !last.is_empty() => {
            "a range of ports can't be written: give each of them".into()
        }
        _ => format!("{text:?} is no port: write a number from 1 to 65535"),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddrV4, SocketAddrV6};

    use super::*;

    #[test]
    fn each_mistake_is_told_by_its_own_words() {
        for (text, expected) in [
            (":2222", "0.0.0.0:2222"),
            ("2222", "0.0.0.0:2222"),
            ("tcp://127.0.0.1:22", "write 127.0.0.1:22"),
            ("unix:/run/app.sock", "Unix socket"),
            ("/run/app.sock", "Unix socket"),
            ("::1:22", "write [::1]:22 or [::1:22]:PORT"),
            ("", "no port"),
            ("127.0.0.1", "write 127.0.0.1:PORT"),
            ("[::1]", "write [::1]:PORT"),
            ("::1", "write [::1]:PORT"),
            (
                "2001:db8::9:22",
                "write [2001:db8::9]:22 or [2001:db8::9:22]:PORT",
            ),
            ("2001:db8::9:ab", "write [2001:db8::9:ab]:PORT"),
            ("localhost:22", "localhost is a name"),
            ("[fe80::1%eth0]:22", "write another address"),
            ("[2001:db8::1%eth0]:22", "write [2001:db8::1]:22"),
            ("10.0.0.0/8:22", "10.0.0.0/8 is a network"),
            ("10.0.0:22", "10.0.0 is no address"),
            ("10.0.0.02:22", "leading zero"),
            ("[::1:22", "write [::1]:22"),
            ("[10.0.0.1]:22", "no IPv6 address"),
            ("127.0.0.1:22-25", "range"),
            ("127.0.0.1:080", "no port"),
            ("127.0.0.1:+80", "no port"),
            ("127.0.0.1:65536", "65535"),
            ("127.0.0.1:", "no port"),
        ] {
            let said = parse::<SocketAddr>(text).expect_err(text);
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn an_address_alone_has_neither_port_nor_length() {
        for (text, expected) in [
            ("203.0.113.9:41", "write 203.0.113.9"),
            ("[::1]:41", "write ::1"),
            ("203.0.113.0/24", "write one address"),
            ("fe80::1%eth0", "no zone here: write fe80::1"),
            ("localhost", "localhost is a name"),
            ("", "as in 192.0.2.1"),
        ] {
            let said = alone(text).expect_err(text);
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn the_other_family_is_another_flag_s() {
        let said = parse::<SocketAddrV4>("22").expect_err("no address");
        assert!(said.contains("127.0.0.1:22"), "{said}");
        let said = parse::<SocketAddrV4>("[::1]:22").expect_err("IPv6");
        assert!(said.contains("--target6 [::1]:22"), "{said}");
        let said = parse::<SocketAddrV6>("127.0.0.1:22").expect_err("IPv4");
        assert!(said.contains("--target4 127.0.0.1:22"), "{said}");
        let said = parse::<SocketAddrV6>("[::ffff:127.0.0.1]:22").expect_err("mapped");
        assert!(said.contains("--target4 127.0.0.1:22"), "{said}");
        assert_eq!(
            parse("127.0.0.1:22"),
            Ok(SocketAddrV4::new([127, 0, 0, 1].into(), 22))
        );
        let v6: SocketAddr = parse("[::1]:22").expect("an address");
        assert_eq!(v6.to_string(), "[::1]:22");
    }
}
