//! The `replgate` program; everything is in the library.

/// musl's own allocator costs an eighth more CPU per byte carried.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    replgate::internal::main()
}
