//! Kernel functions that the programs call. aya 0.14 doesn't resolve them, so their ids are put into the
//! object before it is loaded.

use std::{fs, sync::OnceLock};

use anyhow::{Context, Result, ensure};
use aya::Btf;
use aya_obj::btf::BtfKind;
use object::{Object as _, ObjectSection as _, SectionKind};
use proxy_common::kfunc;

/// Of linux/bpf.h: a call, and what says that it is one of a kernel function.
const CALL: u8 = 0x85;
const PSEUDO_KFUNC_CALL: u8 = 2;

/// Whether this kernel has all that the direct path calls. Only names are looked for: reading the types
/// takes far longer.
pub fn are_there() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    *THERE.get_or_init(|| {
        let Ok(types) = fs::read("/sys/kernel/btf/vmlinux") else {
            return false;
        };
        let has = |name: &str| {
            // Between two zeroes, as all names.
            let name = [b"\0", name.as_bytes(), b"\0"].concat();
            types.windows(name.len()).any(|window| window == name)
        };
        kfunc::ALL.iter().all(|(_, name)| has(name))
    })
}

/// Puts the ids of the kernel's functions into `object`. Where one is missing, it stays as it is, and
/// the programs that call them can't be loaded.
pub fn resolve(object: &mut [u8], btf: &Btf) -> Result<()> {
    let id = |(number, name)| Some((number, btf.id_by_type_name_kind(name, BtfKind::Func).ok()?));
    let Some(ids) = kfunc::ALL.into_iter().map(id).collect::<Option<Vec<_>>>() else {
        return Ok(());
    };
    let calls = patch(object, &ids)?;
    ensure!(calls > 0, "the eBPF object calls no kernel function");
    Ok(())
}

/// Returns how many calls there were.
fn patch(object: &mut [u8], ids: &[(u32, u32)]) -> Result<usize> {
    const INSTRUCTION: usize = 8;
    let texts: Vec<_> = object::File::parse(&*object)
        .context("the eBPF object")?
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
        .filter_map(|section| section.file_range())
        .collect();
    let mut calls = 0;
    for (at, len) in texts {
        let (at, len) = (usize::try_from(at)?, usize::try_from(len)?);
        let text = object
            .get_mut(at..at + len)
            .context("a section past the end")?;
        // code, registers, offset (0: the kernel itself, no module), and the number
        for [code, registers, _, _, number @ ..] in text.as_chunks_mut::<INSTRUCTION>().0 {
            let called = u32::from_le_bytes(*number);
            let id = ids.iter().find(|(placeholder, _)| *placeholder == called);
            if let (CALL, 0, Some((_, id))) = (*code, *registers, id) {
                *registers = PSEUDO_KFUNC_CALL << 4;
                *number = id.to_le_bytes();
                calls += 1;
            }
        }
    }
    Ok(calls)
}
