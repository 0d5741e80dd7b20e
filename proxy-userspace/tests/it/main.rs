//! Tests of the real binary, in network namespaces of their own, with real senders and real apps.
//!
//! They need root, the packages that `cargo xtask setup` installs, and `TRUEPEER_BIN`. What is
//! missing makes a test fail; none is ever skipped.

mod allowlist;
mod apps;
mod bans;
mod check;
mod cli;
mod connections;
mod datagrams;
mod deaths;
mod deaths_of_both;
mod diagnosis;
mod drain;
mod facts;
mod guard;
mod handover;
mod header;
mod interop;
mod lab;
mod lab_itself;
mod lab_tools;
mod lifecycle;
mod limits;
mod lists;
mod one_file;
mod operator;
mod outsiders;
mod paths;
mod policy;
mod privileges;
mod programs;
mod qdiscs;
mod readme;
mod refusals;
mod relay;
mod reload;
mod senders;
mod services;
mod steering;
mod take_over;
mod untouched;
mod upgrades;
