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
const FRAME_POINTER: usize = 10;
/// Of linux/bpf.h, as those of the instructions below.
const PSEUDO_CALL: usize = 1;

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
        let deepest = deepest(&functions, *place)?;
        let depth = depth(&deepest);
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
fn deepest(functions: &HashMap<Place, Function>, place: Place) -> Result<Vec<&Function>> {
    let function = functions.get(&place);
    let function = function.with_context(|| format!("no function at {place:?}"))?;
    let mut below = Vec::new();
    for callee in &function.calls {
        let chain = deepest(functions, *callee)?;
        if depth(&chain) > depth(&below) {
            below = chain;
        }
    }
    below.insert(0, function);
    Ok(below)
}

fn depth(chain: &[&Function]) -> u32 {
    chain.iter().map(|function| function.takes()).sum()
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

/// The code that is meant, if it is code.
fn target(file: &File<'_>, relocation: &object::Relocation) -> Option<Place> {
    let RelocationTarget::Symbol(symbol) = relocation.target() else {
        return None;
    };
    let symbol = file.symbol_by_index(symbol).ok()?;
    let section = symbol.section_index()?;
    let is_code = file.section_by_index(section).ok()?.kind() == SectionKind::Text;
    is_code.then_some((section, symbol.address() / INSTRUCTION as u64))
}

impl Function {
    fn read(
        &mut self,
        instructions: &[[u8; INSTRUCTION]],
        (section, first): Place,
        relocated: &HashMap<u64, Place>,
    ) {
        /// Loads into registers, and stores.
        const LOAD: u8 = 1;
        const STORES: [u8; 2] = [2, 3];
        /// Of calculations with 64 bits, 32 bits, and jumps.
        const CALCULATIONS: [u8; 2] = [7, 4];
        const CALL: u8 = 0x85;
        const MOVE: u8 = 0xbf;
        const ADD: u8 = 0x07;
        const ADDRESS: u8 = 0x18;
        // Which registers have the frame's end.
        let mut copies = [false; 16];
        for (number, [code, registers, low, high, constant @ ..]) in (first..).zip(instructions) {
            let (to, from) = (usize::from(registers & 0xf), usize::from(registers >> 4));
            let offset = i32::from(i16::from_le_bytes([*low, *high]));
            let constant = i32::from_le_bytes(*constant);
            let next = i64::from(constant) + 1;
            let class = code & 7;
            let base = if class == LOAD { from } else { to };
            let is_memory = class == LOAD || STORES.contains(&class);
            if is_memory && (base == FRAME_POINTER || copies[base]) {
                self.reach(offset);
            }
            if *code == ADD && copies[to] {
                self.reach(constant);
            }
            match *code {
                CALL if from == PSEUDO_CALL => self.calls.push(match relocated.get(&number) {
                    // Without an instruction of its own, the symbol is the section's.
                    Some((section, 0)) => (*section, 0_u64.wrapping_add_signed(next)),
                    Some(place) => *place,
                    None => (section, number.wrapping_add_signed(next)),
                }),
                // One that the kernel is to call.
                ADDRESS => self
                    .calls
                    .extend(relocated.get(&number).map(|place| match *place {
                        (section, 0) => (
                            section,
                            u64::from(constant.unsigned_abs()) / INSTRUCTION as u64,
                        ),
                        place => place,
                    })),
                _ => {}
            }
            match *code {
                MOVE => copies[to] = from == FRAME_POINTER || copies[from],
                CALL => copies[..=5].fill(false),
                _ if class == LOAD || class == 0 || CALCULATIONS.contains(&class) => {
                    copies[to] = false;
                }
                _ => {}
            }
        }
    }

    fn reach(&mut self, offset: i32) {
        self.frame = self.frame.max(offset.min(0).unsigned_abs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTION: SectionIndex = SectionIndex(1);

    fn read(instructions: &[[u8; INSTRUCTION]], relocated: &HashMap<u64, Place>) -> Function {
        let mut function = Function::default();
        function.read(instructions, (SECTION, 0), relocated);
        function
    }

    #[test]
    fn a_frame_is_as_deep_as_what_is_reached_in_it() {
        let below = |by: i32| by.to_le_bytes();
        let [a, b, c, d] = below(-40);
        let frame = read(
            &[
                [0x7b, 0x1a, 0xf0, 0xff, 0, 0, 0, 0], // *(u64 *)(r10 - 16) = r1
                [0xbf, 0xa1, 0, 0, 0, 0, 0, 0],       // r1 = r10
                [0xbf, 0xa2, 0, 0, 0, 0, 0, 0],       // r2 = r10
                [0x07, 0x01, 0, 0, a, b, c, d],       // r1 += -40
                [0xbf, 0x62, 0, 0, 0, 0, 0, 0],       // r2 = r6
                [0x07, 0x02, 0, 0, 0, 0, 0xff, 0xff], // r2 += -65536
            ],
            &HashMap::new(),
        );
        assert_eq!(frame.frame, 40);
    }

    #[test]
    fn whoever_is_called_counts_and_whoever_the_kernel_calls() {
        let relocated = [(1, (SECTION, 80))].into();
        let calls = read(
            &[
                [0x85, 0x10, 0, 0, 9, 0, 0, 0], // call, ten instructions on
                [0x18, 0x02, 0, 0, 0, 0, 0, 0], // r2 = a function
                [0; INSTRUCTION],
                [0x85, 0, 0, 0, 181, 0, 0, 0], // a helper
            ],
            &relocated,
        );
        assert_eq!(calls.calls, [(SECTION, 10), (SECTION, 80)]);
    }

    #[test]
    fn the_deepest_way_is_found() {
        let function = |frame, calls: &[u64]| Function {
            frame,
            calls: calls.iter().map(|at| (SECTION, *at)).collect(),
            ..Function::default()
        };
        let functions = [
            (0, function(40, &[1, 2])),
            (1, function(100, &[])),
            (2, function(0, &[3])),
            (3, function(70, &[])),
        ];
        let functions = functions
            .map(|(at, function)| ((SECTION, at), function))
            .into();
        let deepest = deepest(&functions, (SECTION, 0)).unwrap();
        let frames: Vec<_> = deepest.iter().map(|it| it.takes()).collect();
        // Each is rounded up, and takes something.
        assert_eq!(frames, [64, 128]);
    }
}
