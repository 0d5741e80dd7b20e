//! How deep the stacks of the eBPF programs get, as Linux 6.1 counts: it takes the frames of all functions that are
//! being called, each rounded up, and refuses a program where that is more than a stack has. Later kernels count
//! less.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind,
    read::{File, SectionIndex},
};

const STACK: u32 = 512;
/// What a frame is rounded up to.
const UNIT: u32 = 32;

/// Of bytes.
const INSTRUCTION: usize = 8;
const FRAME_POINTER: u8 = 10;
/// Of linux/bpf.h, as those of the instructions below.
const PSEUDO_CALL: u8 = 1;

/// A section, and the number of an instruction in it.
type Place = (SectionIndex, u64);

#[derive(Default)]
struct Function {
    name: String,
    is_program: bool,
    frame: u32,
    calls: Vec<Place>,
}

/// Whether the stacks of all programs of `object` are deep enough.
pub fn check(object: &[u8]) -> Result<()> {
    let functions = functions(&File::parse(object).context("no ELF file")?)?;
    let programs = functions.iter().filter(|(_, function)| function.is_program);
    for (place, _) in programs {
        let deepest = deepest(&functions, *place);
        let depth: u32 = deepest.iter().map(|function| function.takes()).sum();
        let chain = deepest.iter().map(|it| format!("{} {}", it.name, it.frame));
        ensure!(
            depth <= STACK,
            "the stack of a program would have to have {depth} bytes on Linux 6.1, and has {STACK}: {}; have the \
             outermost ones keep less, or make functions of their own of what doesn't call others",
            chain.collect::<Vec<_>>().join(", ")
        );
    }
    Ok(())
}

impl Function {
    fn takes(&self) -> u32 {
        self.frame.next_multiple_of(UNIT).max(UNIT)
    }
}

/// The functions that have the most on the stack at once, from `place` on. The verifier allows no recursion.
fn deepest(functions: &HashMap<Place, Function>, place: Place) -> Vec<&Function> {
    let Some(function) = functions.get(&place) else {
        return Vec::new();
    };
    let called = function
        .calls
        .iter()
        .map(|callee| deepest(functions, *callee));
    let depth = |chain: &Vec<&Function>| -> u32 { chain.iter().map(|it| it.takes()).sum() };
    let mut chain = vec![function];
    chain.extend(called.max_by_key(depth).unwrap_or_default());
    chain
}

fn functions(file: &File<'_>) -> Result<HashMap<Place, Function>> {
    let mut functions = HashMap::new();
    for symbol in file
        .symbols()
        .filter(|it| it.kind() == object::SymbolKind::Text)
    {
        let Some(index) = symbol.section_index() else {
            continue;
        };
        let section = file.section_by_index(index)?;
        if section.kind() != SectionKind::Text || symbol.size() == 0 {
            continue;
        }
        let (start, end) = (symbol.address(), symbol.address() + symbol.size());
        let bounds = usize::try_from(start)?..usize::try_from(end)?;
        let code = section.data()?.get(bounds);
        let code =
            code.with_context(|| format!("{} is cut off", section.name().unwrap_or("a section")))?;
        let first = (index, start / INSTRUCTION as u64);
        let relocated: HashMap<u64, Place> = section
            .relocations()
            .filter(|(at, _)| (start..end).contains(at))
            .filter_map(|(at, relocation)| {
                Some((at / INSTRUCTION as u64, target(file, &relocation)?))
            })
            .collect();
        let (instructions, _) = code.as_chunks::<INSTRUCTION>();
        let mut function = Function {
            name: symbol.name()?.to_owned(),
            is_program: section.name()? != ".text",
            ..Function::default()
        };
        function.read(instructions, first, &relocated);
        functions.insert(first, function);
    }
    Ok(functions)
}

/// The section that is called into, and where that begins.
fn target(file: &File<'_>, relocation: &object::Relocation) -> Option<Place> {
    let RelocationTarget::Symbol(symbol) = relocation.target() else {
        return None;
    };
    let symbol = file.symbol_by_index(symbol).ok()?;
    Some((
        symbol.section_index()?,
        symbol.address() / INSTRUCTION as u64,
    ))
}

impl Function {
    fn read(
        &mut self,
        instructions: &[[u8; INSTRUCTION]],
        (section, first): Place,
        relocated: &HashMap<u64, Place>,
    ) {
        /// Loads and stores.
        const MEMORY: std::ops::RangeInclusive<u8> = 1..=3;
        const CALL: u8 = 0x85;
        const MOVE: u8 = 0xbf;
        const ADD: u8 = 0x07;
        // The register that has been made the frame's own just now.
        let mut copy = None;
        for (number, [code, registers, low, high, constant @ ..]) in (first..).zip(instructions) {
            let (to, from) = (registers & 0xf, registers >> 4);
            let offset = i32::from(i16::from_le_bytes([*low, *high]));
            let constant = i32::from_le_bytes(*constant);
            let next = i64::from(constant) + 1;
            let is_memory = MEMORY.contains(&(code & 7)) && [to, from].contains(&FRAME_POINTER);
            match *code {
                CALL if from == PSEUDO_CALL => {
                    let callee = match relocated.get(&number) {
                        // Without an instruction of its own, the symbol is the section's.
                        Some((section, 0)) => (*section, 0_u64.wrapping_add_signed(next)),
                        Some(place) => *place,
                        None => (section, number.wrapping_add_signed(next)),
                    };
                    self.calls.push(callee);
                }
                MOVE if from == FRAME_POINTER => copy = Some(to),
                ADD if copy == Some(to) => self.reach(constant),
                _ if is_memory => self.reach(offset),
                _ => {}
            }
        }
    }

    fn reach(&mut self, offset: i32) {
        self.frame = self.frame.max(offset.min(0).unsigned_abs());
    }
}
