//! Who gets in.

pub mod dispatch;
pub mod guard;
