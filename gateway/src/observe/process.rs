//! What the operating system knows about this process.

use std::fs;

/// What a process takes.
pub(super) struct Process {
    /// Bytes of memory that are resident.
    pub(super) resident: u64,
    /// File descriptors that are open.
    pub(super) descriptors: u64,
}

/// Asks `/proc`; `None` where there is none.
pub(super) fn read() -> Option<Process> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    // One of them is the folder being read.
    let descriptors = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as u64;
    Some(Process { resident: kibibytes * 1024, descriptors })
}
