//! Between the host and the spoof namespace, and between an application and its balancer.

pub mod deliver;
pub mod inject;
pub mod neighbour;
pub mod reply;
pub mod unrouted;
pub mod unsteered;
