//! What stays of a header's TLVs for as long as its connection lives.

use super::tlv::{Raw, Raws, Tlvs, kind};
use super::write::push_tlv;
use super::{Ssl, SslSub};

/// TLVs that outlive the buffer of their header, within a bound: a balancer decides how many it
/// sends, and each connection holds them until it ends.
///
/// What doesn't fit is left out whole, so the rest reads as it was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptTlvs {
    /// No memory is held for none.
    bytes: Box<[u8]>,
    left_out: u16,
}

impl KeptTlvs {
    /// Room for a host name, a unique id and what is said of TLS.
    pub const MAX_LEN: usize = 512;

    /// Those that were kept.
    #[must_use]
    pub fn view(&self) -> Tlvs<'_> {
        Tlvs::kept(&self.bytes)
    }

    /// How many weren't, certificates within an SSL TLV included.
    #[must_use]
    pub fn left_out(&self) -> u16 {
        self.left_out
    }
}

impl Tlvs<'_> {
    /// A copy of what an operator may want to see later.
    #[must_use]
    pub fn keep(&self) -> KeptTlvs {
        let mut keeper = Keeper::default();
        for raw in self.raws() {
            if raw.kind == kind::SSL {
                keeper.ssl(raw.value);
            } else {
                keeper.tlv(raw.kind, raw.value);
            }
        }
        KeptTlvs {
            bytes: keeper.bytes.into_boxed_slice(),
            left_out: keeper.left_out,
        }
    }
}

#[derive(Default)]
struct Keeper {
    bytes: Vec<u8>,
    left_out: u16,
}

impl Keeper {
    fn tlv(&mut self, kind: u8, value: &[u8]) {
        if self.bytes.len() + Raw::HEAD_LEN + value.len() <= KeptTlvs::MAX_LEN {
            push_tlv(&mut self.bytes, kind, value);
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
    }

    /// A client's certificate is long, and its name stands beside it: it alone is left out.
    fn ssl(&mut self, value: &[u8]) {
        let (fixed, subs) = value.split_at_checked(Ssl::FIXED_LEN).unwrap_or_default();
        let mut kept = fixed.to_vec();
        for sub in Raws::new(subs, 0) {
            if sub.kind == SslSub::CLIENT_CERT {
                self.left_out = self.left_out.saturating_add(1);
            } else {
                push_tlv(&mut kept, sub.kind, sub.value);
            }
        }
        self.tlv(kind::SSL, &kept);
    }
}
