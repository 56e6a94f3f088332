//! Where the lines of the access log go, without making a request wait.
//!
//! Every worker collects lines in memory of its own, and a thread writes them all, many at a time. If that thread cannot
//! keep up (a full pipe, a slow disk) lines are dropped and counted: a log must not stop the traffic it is about.
//!
//! The lines of one worker are in order. Between workers the order is that of the batches.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, mem};

use portcullis_config::AccessLogOutput;
use tracing::{info, warn};

use portcullis_middleware::worker::{Sharded, places};

/// How much of one worker may wait to be written.
const ROOM: usize = 2 << 20;
/// With this much of one worker waiting, the writer does not wait for more.
const BATCH: usize = 128 << 10;
/// How long the writer waits for more lines, so that it writes many at a time.
const GATHER: Duration = Duration::from_millis(5);
/// How often the writer looks whether its file was moved away.
const LOOK: Duration = Duration::from_secs(1);

/// How many lines were lost, over all logs of a gateway.
pub(super) type Dropped = AtomicU64;

/// An open access log. Dropping it writes what is left and closes it.
pub(super) struct AccessLog {
    output: AccessLogOutput,
    queue: Arc<Queue>,
    writer: JoinHandle<()>,
}

/// What the writer shares with everybody else.
struct Queue {
    lanes: Sharded<Mutex<Lane>>,
    /// The writer has nothing to do, and must be woken for the first line.
    asleep: AtomicBool,
    orders: Mutex<Orders>,
    /// Whoever flushes waits here for the writer.
    written: Condvar,
    dropped: Arc<Dropped>,
}

/// The lines of one worker that wait to be written.
#[derive(Default)]
struct Lane {
    lines: Vec<u8>,
    /// The writer was told that these are many.
    told: bool,
}

/// What the writer is to do besides writing.
#[derive(Default)]
struct Orders {
    reopen: bool,
    closed: bool,
    /// How many flushes were asked for, and how many of them are done.
    asked: u64,
    done: u64,
}

impl AccessLog {
    /// Opens a log. A file is appended to, and made if there is none.
    pub(super) fn open(output: &AccessLogOutput, dropped: Arc<Dropped>) -> io::Result<Self> {
        Self::start(output.clone(), Target::open(output)?, dropped)
    }

    fn start(output: AccessLogOutput, target: Target, dropped: Arc<Dropped>) -> io::Result<Self> {
        let lanes = Sharded::new();
        // All of them now: the writer must lock a lane to fall asleep, even one that has no line yet.
        for place in 0..places() {
            lanes.at_or(place, Mutex::default);
        }
        let queue = Arc::new(Queue {
            lanes,
            asleep: AtomicBool::new(false),
            orders: Mutex::default(),
            written: Condvar::new(),
            dropped,
        });
        let given = queue.clone();
        let writer = thread::Builder::new().name("access-log".to_owned()).spawn(move || write(&given, target))?;
        Ok(Self { output, queue, writer })
    }

    /// Where it writes to.
    pub(super) fn output(&self) -> &AccessLogOutput {
        &self.output
    }

    /// Adds a line: `write` puts it behind those that wait already, with its line feed. Never waits for the disk.
    pub(super) fn push(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut lane = lock(self.queue.lanes.mine());
        if lane.lines.len() >= ROOM {
            drop(lane);
            self.queue.dropped.fetch_add(1, Relaxed);
            return;
        }
        write(&mut lane.lines);
        let many = lane.lines.len() >= BATCH && !mem::replace(&mut lane.told, true);
        drop(lane);
        // Waking costs a system call, so only a writer that needs it is woken, and by one.
        if many || self.queue.asleep.load(Relaxed) && self.queue.asleep.swap(false, Relaxed) {
            self.wake();
        }
    }

    /// Opens the file again before the next line.
    pub(super) fn reopen(&self) {
        self.queue.orders().reopen = true;
        self.wake();
    }

    /// Waits until every line so far is written, but no longer than `limit`. Returns whether they are.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let mut orders = self.queue.orders();
        orders.asked += 1;
        let ours = orders.asked;
        self.wake();
        match self.queue.written.wait_timeout_while(orders, limit, |orders| orders.done < ours) {
            Ok((_, waited)) => !waited.timed_out(),
            Err(_) => false,
        }
    }

    fn wake(&self) {
        self.writer.thread().unpark();
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.queue.orders().closed = true;
        // Nobody waits for it here: dropping may happen at the end of a request. Flush first to be sure.
        self.wake();
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("output", &self.output).finish_non_exhaustive()
    }
}

impl Queue {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        lock(&self.orders)
    }

    /// Moves all lines that wait into `batch`. `spare` is empty before and after.
    fn collect(&self, batch: &mut Vec<u8>, spare: &mut Vec<u8>) {
        for lane in self.lanes.iter() {
            let mut lane = lock(lane);
            if lane.lines.is_empty() {
                continue;
            }
            lane.told = false;
            // A worker may wait for this lane, so what takes longer is done without it.
            if batch.is_empty() {
                mem::swap(&mut lane.lines, batch);
            } else {
                mem::swap(&mut lane.lines, spare);
                drop(lane);
                batch.append(spare);
            }
        }
    }

    /// Waits until there is something to do, and then a little longer if it is only lines.
    fn wait(&self, more: bool) {
        if !more {
            // Whoever adds a line after we have looked into its lane sees that we are asleep: it takes the lock of the lane
            // after us.
            self.asleep.store(true, Relaxed);
            while !self.has_orders() && self.lanes.iter().all(|lane| lock(lane).lines.is_empty()) {
                thread::park();
            }
            self.asleep.store(false, Relaxed);
        }
        if !self.has_orders() {
            thread::park_timeout(GATHER);
        }
    }

    fn has_orders(&self) -> bool {
        let orders = self.orders();
        orders.reopen || orders.closed || orders.done < orders.asked
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The writer's life.
fn write(queue: &Queue, mut target: Target) {
    let (mut lines, mut spare) = (Vec::new(), Vec::new());
    let mut failing = false;
    loop {
        // Orders first: what was added before they were given is among the lines then.
        let (reopen, closed, asked) = {
            let mut orders = queue.orders();
            (mem::take(&mut orders.reopen), orders.closed, orders.asked)
        };
        queue.collect(&mut lines, &mut spare);
        let some = !lines.is_empty();
        if some || reopen {
            match target.follow(reopen).and_then(|()| target.file.write_all(&lines)) {
                Ok(()) if failing && some => {
                    failing = false;
                    info!("the access log is written again");
                }
                Ok(()) => {}
                Err(error) => {
                    let lost = lines.iter().filter(|&&byte| byte == b'\n').count();
                    queue.dropped.fetch_add(lost as u64, Relaxed);
                    if !mem::replace(&mut failing, true) {
                        warn!(%error, "the access log cannot be written; its lines are lost");
                    }
                }
            }
            lines.clear();
            // After a burst the memory goes back.
            lines.shrink_to(BATCH * 2);
            spare.shrink_to(BATCH * 2);
        }
        queue.orders().done = asked;
        queue.written.notify_all();
        if closed {
            return;
        }
        queue.wait(some);
    }
}

/// What the writer writes to.
struct Target {
    file: File,
    /// If it is a file that has a name: that, and when somebody last looked what has the name now.
    named: Option<(Box<Path>, Instant)>,
}

impl Target {
    fn open(output: &AccessLogOutput) -> io::Result<Self> {
        // Past the standard library's own buffer, which would make a system call of every line.
        let standard = |fd: &dyn AsFd| Ok(Self { file: fd.as_fd().try_clone_to_owned()?.into(), named: None });
        match output {
            AccessLogOutput::Stdout => standard(&io::stdout()),
            AccessLogOutput::Stderr => standard(&io::stderr()),
            AccessLogOutput::File(path) => {
                Ok(Self { file: append(path)?, named: Some((path.as_path().into(), Instant::now())) })
            }
            AccessLogOutput::Off => Err(io::Error::new(io::ErrorKind::InvalidInput, "the access log is off")),
        }
    }

    /// Opens the file again if somebody said so, or moved it away.
    fn follow(&mut self, reopen: bool) -> io::Result<()> {
        let Some((path, looked)) = &mut self.named else { return Ok(()) };
        if !reopen && looked.elapsed() < LOOK {
            return Ok(());
        }
        *looked = Instant::now();
        if reopen || !is_at(&self.file, path) {
            self.file = append(path)?;
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(file), Ok(path)) = (file.metadata(), path.metadata()) else { return false };
    (file.dev(), file.ino()) == (path.dev(), path.ino())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn open(path: &Path) -> (AccessLog, Arc<Dropped>) {
        let dropped = Arc::new(Dropped::default());
        (AccessLog::open(&AccessLogOutput::File(path.into()), dropped.clone()).unwrap(), dropped)
    }

    fn push(log: &AccessLog, line: &[u8]) {
        log.push(|out| out.extend_from_slice(line));
    }

    #[test]
    fn lines_arrive_in_order_and_are_appended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        fs::write(&path, "before\n").unwrap();
        let (log, _) = open(&path);
        let mut want = "before\n".to_owned();
        for number in 0..20_000 {
            let line = format!("{{\"number\":{number}}}\n");
            push(&log, line.as_bytes());
            want.push_str(&line);
        }
        assert!(log.flush(LIMIT));
        assert!(fs::read_to_string(&path).unwrap() == want);
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_again_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let (log, dropped) = open(&path);
        push(&log, b"one\n");
        assert!(log.flush(LIMIT));
        fs::rename(&path, &old).unwrap();
        push(&log, b"two\n");
        assert!(log.flush(LIMIT));
        log.reopen();
        push(&log, b"three\n");
        assert!(log.flush(LIMIT));
        assert_eq!(fs::read_to_string(&old).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
        assert_eq!(dropped.load(Relaxed), 0);
    }

    #[test]
    fn lines_that_do_not_fit_are_dropped_and_counted() {
        // A pipe that nobody reads holds 64 KiB; then the writer waits for ever.
        let (reader, writer) = io::pipe().unwrap();
        let dropped = Arc::new(Dropped::default());
        let target = Target { file: std::os::fd::OwnedFd::from(writer).into(), named: None };
        let log = AccessLog::start(AccessLogOutput::Stdout, target, dropped.clone()).unwrap();
        let mut line = [b'x'; 256 << 10];
        line[line.len() - 1] = b'\n';
        for _ in 0..64 {
            push(&log, &line);
        }
        // The room is full, and as much may have been taken by the writer before.
        let lost = dropped.load(Relaxed);
        assert!((48..=56).contains(&lost), "{lost}");
        assert!(!log.flush(Duration::from_millis(10)));
        // The reader goes away: what was waiting is lost, which is counted too.
        drop(reader);
        assert!(log.flush(LIMIT));
        assert_eq!(dropped.load(Relaxed), 64);
    }

    #[test]
    fn no_line_of_any_worker_is_lost_or_torn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let (log, dropped) = open(&path);
        let lines = |worker: usize| (0..2000).map(move |number| format!("{worker} {number}\n"));
        thread::scope(|scope| {
            for worker in 0..6 {
                let log = &log;
                scope.spawn(move || {
                    for line in lines(worker) {
                        push(log, line.as_bytes());
                        if line.ends_with("00\n") {
                            assert!(log.flush(LIMIT));
                        }
                    }
                });
            }
        });
        assert!(log.flush(LIMIT));
        let text = fs::read_to_string(&path).unwrap();
        for worker in 0..6 {
            let ours = text.split_inclusive('\n').filter(|line| line.starts_with(&format!("{worker} ")));
            assert!(ours.eq(lines(worker)), "the lines of one worker are all there, in order");
        }
        assert_eq!((text.lines().count(), dropped.load(Relaxed)), (6 * 2000, 0));
    }

    #[test]
    fn a_writer_that_sleeps_is_woken_by_a_line() {
        let (mut reader, writer) = io::pipe().unwrap();
        let target = Target { file: std::os::fd::OwnedFd::from(writer).into(), named: None };
        let log = AccessLog::start(AccessLogOutput::Stdout, target, Arc::default()).unwrap();
        for _ in 0..50 {
            // Nobody flushes: it comes by itself, or this waits for ever.
            push(&log, b"one\n");
            let mut line = [0; 4];
            reader.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"one\n");
        }
    }

    #[test]
    fn what_is_left_is_written_when_the_log_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let (log, _) = open(&path);
        let queue = Arc::downgrade(&log.queue);
        push(&log, b"last words\n");
        drop(log);
        // The writer lets go of it when it is done.
        while queue.strong_count() > 0 {
            thread::yield_now();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "last words\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        let output = AccessLogOutput::File("/nowhere/access.log".into());
        assert!(AccessLog::open(&output, Arc::default()).is_err());
    }
}
