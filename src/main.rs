//! The `replgate` program; everything is in the library.

fn main() -> std::process::ExitCode {
    replgate::cli::main()
}
