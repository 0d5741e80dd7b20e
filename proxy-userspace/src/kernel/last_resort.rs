//! The host's own routes, for the programs that keep its own traffic from our route of last resort, and for those
//! that answer balancers.

use std::{collections::HashSet, hash::Hash};

use anyhow::Result;
use aya::{
    Ebpf, Pod,
    maps::{Array, LpmTrie, MapData, lpm_trie::Key},
};
use ipnet::IpNet;
use proxy_common::{Addr, MAX_ROUTES, map};

use super::load::take;
use crate::netns;

pub struct LastResort {
    v4: Routes<1>,
    v6: Routes<4>,
    is_used: Array<MapData, u32>,
    least_mtus: Array<MapData, u32>,
}

impl LastResort {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            v4: Routes::new(take(ebpf, map::ROUTES4)?.try_into()?),
            v6: Routes::new(take(ebpf, map::ROUTES6)?.try_into()?),
            is_used: take(ebpf, map::LAST_RESORT)?.try_into()?,
            least_mtus: take(ebpf, map::LEAST_MTUS)?.try_into()?,
        })
    }

    fn try_tell(&mut self, is_v6: bool, others: Option<&[IpNet]>) -> Result<()> {
        let others = others.filter(|others| others.len() <= MAX_ROUTES as usize);
        if let Some(others) = others {
            match is_v6 {
                false => self.v4.replace(others)?,
                true => self.v6.replace(others)?,
            }
        }
        let is_used = u32::from(others.is_some());
        Ok(self.is_used.set(is_v6.into(), is_used, 0)?)
    }
}

impl netns::LastResort for LastResort {
    fn tell(&mut self, is_v6: bool, others: Option<&[IpNet]>) {
        if let Err(error) = self.try_tell(is_v6, others) {
            tracing::warn!(
                "the host's own connects to where it has no route wait for nothing: {error:#}"
            );
        }
    }

    fn tell_mtu(&mut self, is_v6: bool, least: Option<u32>) {
        let set = self
            .least_mtus
            .set(is_v6.into(), least.unwrap_or(u32::MAX), 0);
        if let Err(error) = set {
            tracing::warn!("replies may be longer than their route's MTU: {error:#}");
        }
    }
}

/// One family's.
struct Routes<const N: usize> {
    trie: LpmTrie<MapData, [u32; N], u32>,
    known: HashSet<(u32, [u32; N])>,
}

impl<const N: usize> Routes<N>
where
    [u32; N]: Pod + Eq + Hash,
{
    fn new(trie: LpmTrie<MapData, [u32; N], u32>) -> Self {
        Self {
            trie,
            known: HashSet::new(),
        }
    }

    /// Adds before it removes, so that no route is missing in between.
    fn replace(&mut self, routes: &[IpNet]) -> Result<()> {
        let words = |net: &IpNet| {
            let all = Addr::from(net.network()).words();
            let mut words = [0; N];
            words.copy_from_slice(&all[all.len() - N..]);
            (net.prefix_len().into(), words)
        };
        let wanted: HashSet<_> = routes.iter().map(words).collect();
        for &(bits, words) in wanted.difference(&self.known) {
            self.trie.insert(&Key::new(bits, words), 0, 0)?;
        }
        for &(bits, words) in self.known.difference(&wanted) {
            self.trie.remove(&Key::new(bits, words))?;
        }
        self.known = wanted;
        Ok(())
    }
}
