//! Who gets in.

pub mod dispatch;
pub mod guard;
pub mod limit;
pub mod serving;
