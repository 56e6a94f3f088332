//! The cases for callgrind: runs the one that is named, and prints over how many requests it was counted.

use std::process::ExitCode;

use portcullis_speed::{print, run};

/// As in the gateway itself: what an allocation costs is part of what a request costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(&mut counted_request) {
        Ok(requests) => {
            print(requests);
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

/// Callgrind counts while it is inside this function, which it knows by its name.
#[inline(never)]
fn counted_request(request: &mut dyn FnMut()) {
    request();
}
