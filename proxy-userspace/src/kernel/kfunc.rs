//! Kernel functions that the programs call. aya 0.14 doesn't resolve them, so their ids are put into the
//! object before it is loaded.

use std::{fs, sync::OnceLock};

use anyhow::{Context, Result, ensure};
use aya::Btf;
use aya_obj::btf::BtfKind;
use memchr::memmem;
use object::{Object as _, ObjectSection as _, SectionKind};
use proxy_common::kfunc::{ASSIGN_TCP_REQSK, CAST_TO_KERN_CTX, Kfunc};

/// Of linux/bpf.h: a call, and what says that it is one of a kernel function.
const CALL: u8 = 0x85;
const PSEUDO_KFUNC_CALL: u8 = 2;
/// What a call becomes where there is nothing to call: a number is its result.
const SET_TO_NUMBER: u8 = 0xb7;

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
            memmem::find(&types, &name).is_some()
        };
        has(ASSIGN_TCP_REQSK.name)
    })
}

/// Puts the ids of the kernel's functions into `object`. Where one is missing, the programs that can't do without
/// it can't be loaded.
pub fn resolve(object: &mut [u8], btf: &Btf) -> Result<()> {
    let mut calls = Vec::new();
    if let Some(id) = id(btf, &ASSIGN_TCP_REQSK) {
        calls.push((ASSIGN_TCP_REQSK.number, Call::Of(id)));
    }
    let cast = id(btf, &CAST_TO_KERN_CTX).map_or(Call::Nothing, Call::Of);
    calls.push((CAST_TO_KERN_CTX.number, cast));
    let count = patch(object, &calls)?;
    ensure!(count > 0, "the eBPF object calls no kernel function");
    Ok(())
}

/// Whether programs can have the kernel's own structure behind their context.
pub fn can_cast(btf: &Btf) -> bool {
    id(btf, &CAST_TO_KERN_CTX).is_some()
}

fn id(btf: &Btf, function: &Kfunc) -> Option<u32> {
    btf.id_by_type_name_kind(function.name, BtfKind::Func).ok()
}

/// What a call of a number becomes.
#[derive(Clone, Copy)]
enum Call {
    /// One of the kernel's function of this id.
    Of(u32),
    /// None. Where nothing comes of its result, which is zero, a program can do without.
    Nothing,
}

/// Returns how many calls there were.
fn patch(object: &mut [u8], calls: &[(u32, Call)]) -> Result<usize> {
    const INSTRUCTION: usize = 8;
    let texts: Vec<_> = object::File::parse(&*object)
        .context("the eBPF object")?
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
        .filter_map(|section| section.file_range())
        .collect();
    let mut count = 0;
    for (at, len) in texts {
        let (at, len) = (usize::try_from(at)?, usize::try_from(len)?);
        let text = object
            .get_mut(at..at + len)
            .context("a section past the end")?;
        // code, registers, offset (0: the kernel itself, no module), and the number
        for [code, registers, _, _, number @ ..] in text.as_chunks_mut::<INSTRUCTION>().0 {
            let called = u32::from_le_bytes(*number);
            let call = calls.iter().find(|(number, _)| *number == called);
            if let (CALL, 0, Some((_, call))) = (*code, *registers, call) {
                (*code, *registers, *number) = match call {
                    Call::Of(id) => (CALL, PSEUDO_KFUNC_CALL << 4, id.to_le_bytes()),
                    Call::Nothing => (SET_TO_NUMBER, 0, [0; 4]),
                };
                count += 1;
            }
        }
    }
    Ok(count)
}
