//! Lists of prefixes, and addresses, as people write them.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::IpNet;

use super::ConfigError;

/// Where a list comes from; read at start and again at each reload.
#[derive(Clone, Debug, Default)]
pub struct PrefixSource {
    pub prefixes: Vec<IpNet>,
    pub files: Vec<PathBuf>,
}

impl PrefixSource {
    /// In order, and each once.
    pub fn read(&self) -> Result<Vec<IpNet>, ConfigError> {
        let mut prefixes = self.prefixes.clone();
        for path in &self.files {
            prefixes.extend(read_prefixes(path)?);
        }
        prefixes.sort_unstable();
        prefixes.dedup();
        Ok(prefixes)
    }
}

/// What an instance has kept in a file of its own; nothing, if it hasn't made it yet.
pub fn read_kept(path: &Path) -> Result<Vec<IpNet>, ConfigError> {
    match fs::exists(path) {
        Ok(false) => Ok(Vec::new()),
        Ok(true) | Err(_) => read_prefixes(path),
    }
}

/// The format of mmproxy and go-mmproxy: a prefix or address a line, blank lines and comments.
fn read_prefixes(path: &Path) -> Result<Vec<IpNet>, ConfigError> {
    const BYTE_ORDER_MARK: char = '\u{feff}';
    let text = fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
        path: path.to_owned(),
        error,
    })?;
    let mut prefixes = Vec::new();
    for (index, line) in text.trim_start_matches(BYTE_ORDER_MARK).lines().enumerate() {
        let entry = line.split(['#', ';']).next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        prefixes.push(parse_prefix(entry).map_err(|why| ConfigError::BadLine {
            path: path.to_owned(),
            line: index + 1,
            found: entry.to_owned(),
            why,
        })?);
    }
    Ok(prefixes)
}

/// A prefix without its host bits, or an address as a prefix of its own. IPv4-mapped IPv6 is
/// IPv4, which is what the kernel sees. The error says what to write instead.
pub fn parse_prefix(text: &str) -> Result<IpNet, String> {
    const MAPPED_BITS: u8 = 96;
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| no_prefix(text))?,
    };
    if let IpNet::V6(v6) = net
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Some(prefix_len) = v6.prefix_len().checked_sub(MAPPED_BITS)
    {
        let v4 = IpNet::new(v4.into(), prefix_len).map_err(|_| no_prefix(text))?;
        return Ok(v4.trunc());
    }
    Ok(net.trunc())
}

/// What is wrong with an address that has a port or a zone, or is a name; none if it is something else.
pub fn misread(text: &str) -> Option<String> {
    if let Ok(with_port) = text.parse::<SocketAddr>() {
        return Some(format!("there is no port here: write {}", with_port.ip()));
    }
    let host = text.split('/').next().unwrap_or_default();
    if let Some((host, _zone)) = host.split_once('%')
        && let Ok(address) = host.parse::<IpAddr>()
    {
        return Some(format!("an address has no zone here: write {address}"));
    }
    let is_name = host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains(':');
    is_name
        .then(|| format!("{host} is a name: write its address (`getent ahosts {host}` shows it)"))
}

/// What is wrong with a text that is no prefix.
fn no_prefix(text: &str) -> String {
    if let Some(wrong) = misread(text) {
        return wrong;
    }
    if let Some((first, _)) = text.split_once('-')
        && first.trim().parse::<IpAddr>().is_ok()
    {
        return "a range can't be written: give the prefixes that make it up, as in 192.0.2.0/24"
            .into();
    }
    if let Some((address, len)) = text.split_once('/')
        && let Ok(address) = address.parse::<IpAddr>()
    {
        if let Ok(bits) = len.parse().map(ipnet::ipv4_mask_to_prefix)
            && let Ok(bits) = bits
        {
            return format!("a mask is written as its number of bits: write {address}/{bits}");
        }
        let bits = if address.is_ipv4() { 32 } else { 128 };
        return format!(
            "a prefix length is a number from 0 to {bits}: write {address}/{bits} for this address alone"
        );
    }
    "write a CIDR prefix or an address, as in 192.0.2.0/24".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_lose_their_host_bits_and_mapping() {
        for (text, expected) in [
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("192.0.2.7", Some("192.0.2.7/32")),
            ("::1", Some("::1/128")),
            ("::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
            ("::/0", Some("::/0")),
            ("10.0.0.0/33", None),
            ("10.0.0", None),
            ("010.0.0.1", None),
            ("", None),
        ] {
            let expected = expected.map(|net| net.parse().expect("a prefix"));
            assert_eq!(parse_prefix(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn each_mistake_in_a_prefix_is_told_by_its_own_words() {
        for (text, expected) in [
            ("10.0.0.0/33", "from 0 to 32: write 10.0.0.0/32"),
            ("::1/129", "from 0 to 128"),
            ("10.0.0.1/", "from 0 to 32"),
            ("10.0.0.1-10.0.0.9", "a range"),
            ("fe80::1%eth0", "no zone here: write fe80::1"),
            ("10.0.0.1:80", "no port here: write 10.0.0.1"),
            ("10.0.0.0/255.0.0.0", "write 10.0.0.0/8"),
            ("lb.example.com", "lb.example.com is a name"),
            ("10.0.0", "as in 192.0.2.0/24"),
            ("", "as in 192.0.2.0/24"),
        ] {
            let said = parse_prefix(text).expect_err(text);
            assert!(said.contains(expected), "{text}: {said}");
        }
    }
}
