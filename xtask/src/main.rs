//! `cargo xtask`: the one door to truepeer's builds, tests and demo. CI comes in by it too.

mod bench;
mod build;
mod build_ebpf;
mod demo;
mod fuzz;
mod kernel;
mod knobs;
mod lint;
mod privilege;
mod proc;
mod run;
mod rustc;
mod setup;
mod stack;
mod test;
mod toolchain;
mod traces;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
#[command(about = "Build, test and try truepeer")]
enum Task {
    /// Install what the other tasks need and this machine lacks
    Setup,
    /// Compile the eBPF programs to target/bpf/truepeer.o
    BuildEbpf,
    /// Compile everything to target/release/truepeer
    Build,
    /// Build, then start truepeer as root: cargo xtask run -- ARGS
    Run {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Show truepeer at work between real programs
    Demo,
    /// Run all tests, as root where they need it
    Test {
        /// In full, as much as is promised: up to an hour
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        kernel: kernel::Options,
        /// Only tests with one of these in their name; flags such as --nocapture go along
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        filter: Vec<String>,
    },
    /// Feed the header parser random inputs
    Fuzz {
        /// How long for each target
        #[arg(long, value_name = "N", default_value_t = 60)]
        secs: u32,
        /// Only these of proxy-userspace/fuzz
        #[arg(value_name = "TARGET")]
        targets: Vec<String>,
    },
    /// Measure truepeer beside its peers
    Bench(bench::Options),
    /// Check formatting, clippy and documentation
    Lint,
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Setup => setup::for_tests().map(drop),
        Task::BuildEbpf => build_ebpf::run(),
        Task::Build => build::run(),
        Task::Run { args } => run::run(&args),
        Task::Demo => demo::run(),
        Task::Test {
            all,
            kernel,
            filter,
        } => match kernel.asked_for() {
            true => kernel::run(&kernel, &filter, all),
            false => test::run(&filter, all),
        },
        Task::Fuzz { secs, targets } => fuzz::run(secs, &targets),
        Task::Bench(options) => bench::run(&options),
        Task::Lint => lint::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `{:#}` is the chain of causes on one line and, unlike `{:?}`, never a backtrace.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
