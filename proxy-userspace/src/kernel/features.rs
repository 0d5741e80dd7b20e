//! What this kernel can do, found out without leaving anything in it.

use aya::{programs::ProgramType, sys::is_program_supported, util::KernelVersion};

pub enum Feature {
    Present,
    Absent,
    Unknown(String),
}

impl Feature {
    fn from<E: ToString>(found: Result<bool, E>) -> Self {
        match found {
            Ok(true) => Self::Present,
            Ok(false) => Self::Absent,
            Err(error) => Self::Unknown(error.to_string()),
        }
    }
}

pub fn has_sk_lookup() -> Feature {
    Feature::from(is_program_supported(ProgramType::SkLookup))
}

pub fn has_tcx() -> Feature {
    // commit e420bed02507
    const SINCE: KernelVersion = KernelVersion::new(6, 6, 0);
    Feature::from(KernelVersion::current().map(|version| version >= SINCE))
}
