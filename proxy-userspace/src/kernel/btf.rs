//! The kernel's description of its types (BTF), of which a few structures' members are looked up. Crates make tables
//! of all 150,000 types first, which takes longer than all else at a start and 60 MB.

use std::ffi::CStr;

use anyhow::{Context as _, Result, bail, ensure};

/// Of linux/btf.h.
const MAGIC: u32 = 0xeb9f;
mod kind {
    pub const INT: u32 = 1;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

pub struct Types<'a> {
    strings: &'a [u8],
    types: &'a [u8],
    /// Where each is, by its id; the first is void.
    starts: Vec<usize>,
}

/// Its words, and those behind them: members, of three words each, where it has some.
struct Type<'a> {
    name: u32,
    info: u32,
    /// Of another one, which this one is but for its name or a qualifier; or its size.
    other: u32,
    behind: &'a [u8],
}

impl Type<'_> {
    const LEN: usize = 12;

    const fn kind(&self) -> u32 {
        self.info >> 24 & 0x1f
    }

    const fn count(&self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// Whether members' offsets have the size of a bit field in front.
    const fn has_bit_fields(&self) -> bool {
        self.info >> 31 != 0
    }

    /// Bytes behind its words.
    fn behind(&self) -> Result<usize> {
        Ok(match self.kind() {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * self.count(),
            kind::ENUM | kind::FUNC_PROTO => 8 * self.count(),
            0..=kind::ENUM64 => 0,
            unknown => bail!("types of an unknown kind, {unknown}"),
        })
    }
}

impl<'a> Types<'a> {
    pub fn parse(btf: &'a [u8]) -> Result<Self> {
        let [first] = words(btf, 0)?;
        ensure!(first & 0xffff == MAGIC, "no BTF");
        let [header, types_at, types_len, at, len] = words(btf, 4)?;
        let section = |at: u32, len: u32| {
            let at = (header as usize).checked_add(at as usize);
            let section = at.and_then(|at| btf.get(at..)?.get(..len as usize));
            section.context("a section past the end")
        };
        let types = section(types_at, types_len)?;
        let strings = section(at, len)?;
        let mut all = Self {
            strings,
            types,
            starts: vec![usize::MAX],
        };
        let mut at = 0;
        while at < types.len() {
            all.starts.push(at);
            at += Type::LEN + all.at(at)?.behind()?;
        }
        Ok(all)
    }

    /// Where a structure has a member, in bits. That may be one of a member's of its own: `adj_list.upper`.
    pub fn offset(&self, structure: &str, member: &str) -> Result<u32> {
        let mut found = self.structure(structure)?;
        let mut offset = 0;
        for name in member.split('.') {
            let (at, id) = self
                .member(&found, name)?
                .with_context(|| format!("the kernel's {structure} has no {member}"))?;
            offset += at;
            found = self.plain(id)?;
        }
        Ok(offset)
    }

    fn structure(&self, name: &str) -> Result<Type<'a>> {
        for at in &self.starts[1..] {
            let found = self.at(*at)?;
            if found.kind() == kind::STRUCT && self.name(found.name) == Some(name.as_bytes()) {
                return Ok(found);
            }
        }
        bail!("the kernel has no {name}")
    }

    /// Where it is, in bits, and of which type. Those of members without a name count as the structure's own.
    fn member(&self, of: &Type<'a>, name: &str) -> Result<Option<(u32, u32)>> {
        if !matches!(of.kind(), kind::STRUCT | kind::UNION) {
            return Ok(None);
        }
        for number in 0..of.count() {
            let [named, id, mut offset] = words(of.behind, 12 * number)?;
            if of.has_bit_fields() {
                offset &= 0x00ff_ffff;
            }
            match self.name(named) {
                Some(b"") => {
                    if let Some((more, id)) = self.member(&self.plain(id)?, name)? {
                        return Ok(Some((offset + more, id)));
                    }
                }
                Some(found) if found == name.as_bytes() => return Ok(Some((offset, id))),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Without other names and qualifiers.
    fn plain(&self, mut id: u32) -> Result<Type<'a>> {
        /// More, nobody gives one type.
        const MOST: usize = 32;
        for _ in 0..MOST {
            let start = self
                .starts
                .get(id as usize)
                .context("a type past the end")?;
            let found = self.at(*start)?;
            match found.kind() {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = found.other
                }
                _ => return Ok(found),
            }
        }
        bail!("types that are each other")
    }

    fn at(&self, at: usize) -> Result<Type<'a>> {
        let [name, info, other] = words(self.types, at)?;
        Ok(Type {
            name,
            info,
            other,
            behind: &self.types[at + Type::LEN..],
        })
    }

    fn name(&self, at: u32) -> Option<&'a [u8]> {
        let name = CStr::from_bytes_until_nul(self.strings.get(at as usize..)?);
        Some(name.ok()?.to_bytes())
    }
}

fn words<const N: usize>(bytes: &[u8], at: usize) -> Result<[u32; N]> {
    let mut words = [0; N];
    let all = bytes.get(at..).and_then(|bytes| bytes.get(..4 * N));
    let (all, _) = all.context("a word past the end")?.as_chunks();
    for (word, bytes) in words.iter_mut().zip(all) {
        *word = u32::from_ne_bytes(*bytes);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that has them all: an int; a structure of two members, the second one without a name and of a type that
    /// is const, which has a bit field.
    fn sample() -> Vec<u8> {
        const STRINGS: &[u8] = b"\0int\0outer\0first\0inner\0flag\0";
        let [int, outer, first, flag] = [1, 5, 11, 23];
        let info = |kind: u32, count: u32| kind << 24 | count;
        let types = [
            &[int, info(kind::INT, 0), 4, 32][..],
            &[0, info(kind::STRUCT, 1) | 1 << 31, 4, flag, 1, 3 << 24 | 5],
            &[0, info(kind::CONST, 0), 2],
            &[outer, info(kind::STRUCT, 2), 8, first, 1, 0, 0, 3, 32],
        ]
        .concat();
        let [types_len, strings_len] =
            [4 * types.len(), STRINGS.len()].map(|len| u32::try_from(len).unwrap());
        let head = [MAGIC, 24, 0, types_len, types_len, strings_len];
        let words = head.iter().chain(&types);
        let words = words.flat_map(|word| word.to_ne_bytes());
        words.chain(STRINGS.iter().copied()).collect()
    }

    #[test]
    fn members_are_found_in_those_without_a_name() {
        let btf = sample();
        let types = Types::parse(&btf).unwrap();
        assert_eq!(types.offset("outer", "first").unwrap(), 0);
        assert_eq!(types.offset("outer", "flag").unwrap(), 37);
        let error = |structure, member| types.offset(structure, member).unwrap_err().to_string();
        assert_eq!(error("outer", "second"), "the kernel's outer has no second");
        assert_eq!(
            error("outer", "first.more"),
            "the kernel's outer has no first.more"
        );
        assert_eq!(error("another", "first"), "the kernel has no another");
    }

    #[test]
    fn what_ends_too_soon_is_an_error() {
        let btf = sample();
        for len in 0..btf.len() - 1 {
            let cut = Types::parse(&btf[..len]).and_then(|types| types.offset("outer", "flag"));
            assert!(cut.is_err(), "{len}");
        }
    }

    #[test]
    fn this_kernel_has_what_is_looked_up() {
        let btf = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
        let types = Types::parse(&btf).unwrap();
        assert_eq!(types.offset("list_head", "prev").unwrap(), 64);
        let [protocol, next] =
            ["protocol", "transport_header"].map(|it| types.offset("sk_buff", it));
        assert!(protocol.unwrap() < next.unwrap());
    }
}
