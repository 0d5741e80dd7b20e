//! truepeer takes the PROXY protocol header off a balancer's connection and connects to the
//! application from the client's own address and port.
//!
//! The header parser is the part of use to other programs; `docs/architecture.md` is the map of
//! the rest.

mod admin;
mod app;
mod check;
pub mod cli;
mod config;
mod drain;
mod facts;
pub mod header;
mod keeper;
mod kernel;
mod netns;
mod plan;
mod privileges;
mod relay;
mod sys;
mod telemetry;
