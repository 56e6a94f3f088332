//! The cases with an allocator that counts: runs the one that is named, and prints how often a request allocates.

use std::process::ExitCode;

use portcullis_speed::{print, run};

fn main() -> ExitCode {
    let mut allocations = 0;
    match run(&mut |request| allocations += allocation_counter::measure(request).count_total) {
        Ok(requests) => {
            print(allocations as f64 / requests as f64);
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}
