//! The programs one by one, without a network: a packet in, and what they return, make of it and count
//! (`BPF_PROG_TEST_RUN`). They are those of a daemon that runs, loaded and fed by itself.
//!
//! The kernel doesn't take such a packet where the program says, and its function that makes
//! connections doesn't take one either: a header that is all right ends as one without a listener.

mod answer;
mod bench;
mod first;
mod foreign;
mod frame;
mod hostile;
mod refuse;
mod rewrite;
mod steer;
mod syn;
