use std::process::ExitCode;

fn main() -> ExitCode {
    truepeer::cli::main()
}
