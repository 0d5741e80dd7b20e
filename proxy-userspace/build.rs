//! Finds the eBPF object that `cargo xtask build-ebpf` made, so that the binary can embed it.

use std::{env, path::PathBuf};

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap_or_default());
    let object = root.join("../target/bpf/truepeer.o");
    println!("cargo::rerun-if-changed={}", object.display());
    if object.is_file() {
        println!("cargo::rustc-env=TRUEPEER_EBPF={}", object.display());
    } else {
        println!("cargo::error=the eBPF programs are not built yet: run `cargo xtask build`");
    }
}
