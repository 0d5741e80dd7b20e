//! What the kernel knows: sockets and routes.

pub mod hooks;
pub mod kfunc;
pub mod route;
pub mod socket;
