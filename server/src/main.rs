use std::process::ExitCode;

fn main() -> ExitCode {
    mergeyard_server::cli::main()
}
