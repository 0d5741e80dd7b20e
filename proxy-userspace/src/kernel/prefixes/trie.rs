//! A list's prefixes of one family.

use std::{net::IpAddr, path::Path};

use anyhow::{Context, Result, bail};
use aya::maps::{LpmTrie, Map, MapData, MapError, lpm_trie::Key};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proxy_common::{Addr, Listed, MAX_LISTED};

use super::{
    super::pins::{NO_PREALLOC, open_pinned, pinning},
    Origin,
};

/// A family's prefix in the form of the trie's key.
pub trait Prefix<const N: usize>: Copy {
    fn words(self) -> [u32; N];
    fn len(self) -> u8;
    fn from_words(words: [u32; N], len: u8) -> Result<IpNet>;
}

impl Prefix<1> for Ipv4Net {
    fn words(self) -> [u32; 1] {
        [u32::from(self.network()).to_be()]
    }

    fn len(self) -> u8 {
        self.prefix_len()
    }

    fn from_words([word]: [u32; 1], len: u8) -> Result<IpNet> {
        let address = std::net::Ipv4Addr::from(u32::from_be(word));
        Ok(IpNet::new(address.into(), len)?)
    }
}

impl Prefix<4> for Ipv6Net {
    fn words(self) -> [u32; 4] {
        Addr::from(IpAddr::V6(self.network())).words()
    }

    fn len(self) -> u8 {
        self.prefix_len()
    }

    fn from_words(words: [u32; 4], len: u8) -> Result<IpNet> {
        let bits = words
            .iter()
            .fold(0, |bits, word| bits << 32 | u128::from(u32::from_be(*word)));
        let address = std::net::Ipv6Addr::from(bits);
        Ok(IpNet::new(address.into(), len)?)
    }
}

/// One family's trie.
pub struct Trie<const N: usize>(LpmTrie<MapData, Listed<N>, u32>);

impl<const N: usize> Trie<N> {
    pub fn open(pin: &Path) -> Result<Self> {
        if !pin.exists() {
            Self::create(pin)?;
        }
        open_pinned(pin, Map::LpmTrie).map(Self)
    }

    pub fn create(pin: &Path) -> Result<()> {
        // The kernel wants this of every trie.
        let trie: LpmTrie<MapData, Listed<N>, u32> =
            LpmTrie::create(MAX_LISTED, NO_PREALLOC).context("making a list (needs CAP_BPF)")?;
        trie.pin(pin).with_context(|| pinning(pin))
    }

    /// With each prefix's service.
    pub fn each<P: Prefix<N>>(&self) -> impl Iterator<Item = Result<(u32, IpNet, Origin)>> {
        self.0.iter().map(|found| entry::<N, P>(found?))
    }

    pub fn has(&self, service: u32, prefix: impl Prefix<N>) -> Result<bool> {
        match self.0.get(&key(service, prefix), 0) {
            Ok(_) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub fn insert(&mut self, service: u32, prefix: impl Prefix<N>, origin: Origin) -> Result<()> {
        Ok(self.0.insert(&key(service, prefix), origin.value(), 0)?)
    }

    pub fn remove(&mut self, service: u32, prefix: impl Prefix<N>) -> Result<bool> {
        match self.0.remove(&key(service, prefix)) {
            Ok(()) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(MapError::SyscallError(error)) if is_missing(&error.io_error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_missing(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

fn key<const N: usize>(service: u32, prefix: impl Prefix<N>) -> Key<Listed<N>> {
    let bits = Listed::<N>::prefix_len(prefix.len().into());
    Key::new(bits, Listed::new(service, prefix.words()))
}

fn entry<const N: usize, P: Prefix<N>>(
    (key, origin): (Key<Listed<N>>, u32),
) -> Result<(u32, IpNet, Origin)> {
    let listed = key.data();
    let bits = key.prefix_len().checked_sub(Listed::<N>::SERVICE_BITS);
    let Some(len) = bits.and_then(|bits| u8::try_from(bits).ok()) else {
        bail!("a list entry for more than one service: another tool wrote it");
    };
    let prefix = P::from_words(listed.addr(), len)?;
    Ok((listed.service(), prefix, Origin::from_value(origin)))
}
