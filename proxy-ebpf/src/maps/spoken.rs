//! Which of the balancers' sockets have spoken for somebody not long ago.

use aya_ebpf::{macros::map, maps::Array};
use proxy_common::spoken::{self, Spoken};

use super::{load_word, scratch, secret, store_word};

/// Until when each has. They share places.
#[map(name = "spoken")]
static SPOKEN: Array<spoken::Place> = Array::with_max_entries(spoken::LEN, 0);

/// What a socket has among those that have spoken.
#[derive(Clone, Copy)]
struct Noted {
    spoken: Spoken,
    place: *mut spoken::Place,
}

impl Noted {
    /// Of `scratch.speaker`.
    #[inline(always)]
    fn find() -> Option<Self> {
        let spoken = Spoken::new(secret()?, &scratch()?.speaker);
        let place = SPOKEN.get_ptr_mut(spoken.place())?;
        Some(Self { spoken, place })
    }

    /// One of the words of its place.
    #[inline(always)]
    const fn at(self, word: usize) -> *mut u64 {
        // SAFETY: it is within the place, as there are that many.
        unsafe { self.place.cast::<u64>().add(word % spoken::SOCKETS) }
    }

    #[inline(always)]
    fn load(self, word: usize) -> u64 {
        load_word(Some(self.at(word).cast_const()))
    }
}

/// `scratch.speaker` has spoken for somebody.
///
/// A function that the verifier goes through once, and not from wherever it is called.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn note_spoken(now: u32, close_after: u32) -> u32 {
    let Some(noted) = Noted::find() else {
        return 0;
    };
    let load = |word| noted.load(word);
    let (at, word) = noted.spoken.noted(load, now, now + close_after);
    store_word(Some(noted.at(at)), word);
    1
}

/// Whether `scratch.speaker` has spoken for somebody not long ago (1). A function like the one above.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn has_spoken(now: u32) -> u32 {
    let has_spoken = Noted::find().is_some_and(|it| it.spoken.is_in(|word| it.load(word), now));
    has_spoken.into()
}
