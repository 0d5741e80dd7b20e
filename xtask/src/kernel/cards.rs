//! Two network cards of the machine, joined outside it by a hub of QEMU's: what real drivers make of
//! checksums and large packets, which a veth pair never does.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cards {
    Virtio,
    E1000e,
}

impl Cards {
    fn device(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-net-pci",
            Self::E1000e => "e1000e",
        }
    }

    /// For QEMU. `init.sh` knows the two by their addresses.
    pub fn flags(self) -> Vec<String> {
        let flags = ["card0", "card1"]
            .iter()
            .zip(0..)
            .flat_map(|(name, number)| {
                let device = self.device();
                let mac = format!("52:54:00:12:34:0{number}");
                [
                    "-netdev".to_owned(),
                    format!("hubport,id={name},hubid=0"),
                    "-device".to_owned(),
                    // No rom: nothing boots from them.
                    format!("{device},netdev={name},mac={mac},romfile="),
                ]
            });
        flags.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_cards_are_at_one_hub() {
        let flags = Cards::E1000e.flags();
        let at_hub = flags.iter().filter(|flag| flag.ends_with(",hubid=0"));
        assert_eq!(at_hub.count(), 2);
        assert!(flags[7].starts_with("e1000e,netdev=card1,mac=52:54:00:12:34:01"));
    }
}
