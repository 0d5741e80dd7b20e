//! Numbers that look random and are the same on every run.

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed << 1 | 1) // zero would stay zero
    }

    /// xorshift64: cheap, and no byte predicts the next one.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Any 32 bits, such as a sequence number.
    pub fn word(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.next().to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    pub fn byte(&mut self) -> u8 {
        let [byte, ..] = self.word().to_ne_bytes();
        byte
    }

    /// Any number below `limit`, which must not be 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.word() as usize % limit
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// Yes in this many of a thousand cases.
    pub fn happens(&mut self, permille: u32) -> bool {
        self.word() % 1000 < permille
    }
}
