//! What parts of the request path cost: the cases that `scripts/check-speed` counts.
//!
//! Two programs run them. One is for callgrind, which counts instructions; the other counts allocations by itself.

mod cases;
mod chains;
mod edge;

use std::hint::black_box;
use std::process::ExitCode;

/// Requests that are not counted: the first ones pay for what a thread, a list and the allocator keep.
const WARM_UP: usize = 200;
/// Requests that are counted. More of them would not say more: they are all alike.
const COUNTED: usize = 1_000;

/// Runs the case that the command line names, and returns over how many requests it was counted; without a name prints
/// those that there are. `count` is called with each request that is to be counted, and runs it.
pub fn run(count: &mut dyn FnMut(&mut dyn FnMut())) -> Result<usize, ExitCode> {
    let Some(wanted) = std::env::args().nth(1) else {
        cases::ALL.iter().for_each(|(name, _)| print(name));
        return Err(ExitCode::SUCCESS);
    };
    let Some((_, case)) = cases::ALL.iter().find(|(name, _)| *name == wanted) else { return Err(ExitCode::from(64)) };
    // Balancing and sampling draw lots; they are to be the same ones in every run.
    fastrand::seed(7);
    case(&mut Meter { count });
    Ok(COUNTED)
}

/// Prints a line for the script.
#[allow(clippy::print_stdout)]
pub fn print(line: impl std::fmt::Display) {
    println!("{line}");
}

/// Counts requests.
struct Meter<'a> {
    count: &'a mut dyn FnMut(&mut dyn FnMut()),
}

impl Meter<'_> {
    /// Counts `run` and the end of what it returns. What makes its input is not counted.
    fn count<I, O>(&mut self, mut input: impl FnMut() -> I, mut run: impl FnMut(I) -> O) {
        for number in 0..WARM_UP + COUNTED {
            let mut input = Some(input());
            let mut request = || {
                let input = input.take().expect("a request is run once");
                drop(black_box(run(black_box(input))));
            };
            if number < WARM_UP { request() } else { (self.count)(&mut request) }
        }
    }
}
