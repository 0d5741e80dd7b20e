//! Who gets in.

pub mod dispatch;
pub mod guard;
pub mod serving;
