//! What a datagram says: what is wanted, whose it is, and which one of that flow's.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub flow: u16,
    pub number: u64,
}

const FLOW_AT: usize = 1;
const NUMBER_AT: usize = 3;
const END: usize = 11;

impl Message {
    /// Into a payload, whose first byte says what is wanted.
    pub fn write(self, payload: &mut [u8]) {
        payload[FLOW_AT..NUMBER_AT].copy_from_slice(&self.flow.to_be_bytes());
        payload[NUMBER_AT..END].copy_from_slice(&self.number.to_be_bytes());
    }

    pub fn read(payload: &[u8]) -> Option<Self> {
        let flow = payload.get(FLOW_AT..NUMBER_AT)?.try_into().ok()?;
        let number = payload.get(NUMBER_AT..END)?.try_into().ok()?;
        Some(Self {
            flow: u16::from_be_bytes(flow),
            number: u64::from_be_bytes(number),
        })
    }
}
