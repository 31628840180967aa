//! The `replgate` program; everything is in the library.

/// With musl's own allocator, each carried byte costs an eighth more CPU time.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    replgate::internal::main()
}
