//! Where the lines of the access log go, without making a request wait.
//!
//! Lines are collected in memory and written by a thread of its own, many at a time. If that thread cannot keep up (a
//! full pipe, a slow disk) lines are dropped and counted: a log must not stop the traffic it is about.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use portcullis_config::AccessLogOutput;
use tracing::{info, warn};

/// How much may wait to be written.
const ROOM: usize = 8 << 20;
/// With this much waiting, the writer does not wait for more.
const BATCH: usize = 32 << 10;
/// How long the writer waits for more lines, so that it writes many at a time.
const GATHER: Duration = Duration::from_millis(5);
/// How often the writer looks whether its file was moved away.
const LOOK: Duration = Duration::from_secs(1);

/// How many lines were lost, over all logs of a gateway.
pub(super) type Dropped = AtomicU64;

/// An open access log. Dropping it writes what is left and closes it.
#[derive(Debug)]
pub(super) struct AccessLog {
    output: AccessLogOutput,
    queue: Arc<Queue>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    /// The writer waits here for lines and orders.
    work: Condvar,
    /// Whoever flushes waits here for the writer.
    written: Condvar,
    dropped: Arc<Dropped>,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    /// The writer waits for the first line, and must be woken.
    asleep: bool,
    /// The writer holds lines that are not written yet.
    writing: bool,
    hurry: bool,
    reopen: bool,
    closed: bool,
}

impl AccessLog {
    /// Opens a log. A file is appended to, and made if there is none.
    pub(super) fn open(output: &AccessLogOutput, dropped: Arc<Dropped>) -> io::Result<Self> {
        let target = Target::open(output)?;
        let queue = Arc::new(Queue { state: Mutex::default(), work: Condvar::new(), written: Condvar::new(), dropped });
        let given = queue.clone();
        let writer = thread::Builder::new().name("access-log".to_owned()).spawn(move || write(&given, target))?;
        Ok(Self { output: output.clone(), queue, writer: Some(writer) })
    }

    /// Where it writes to.
    pub(super) fn output(&self) -> &AccessLogOutput {
        &self.output
    }

    /// Adds a line, which ends in a line feed. Never waits for the disk.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.queue.state();
        if state.lines.len() + line.len() > ROOM {
            drop(state);
            self.queue.dropped.fetch_add(1, Relaxed);
            return;
        }
        state.lines.extend_from_slice(line);
        // Waking costs a system call, so only who needs it is woken.
        if state.asleep || state.lines.len() >= BATCH && !state.hurry {
            state.hurry = state.lines.len() >= BATCH;
            state.asleep = false;
            self.queue.work.notify_one();
        }
    }

    /// Opens the file again before the next line.
    pub(super) fn reopen(&self) {
        self.queue.state().reopen = true;
        self.queue.work.notify_one();
    }

    /// Waits until every line so far is written, but no longer than `limit`. Returns whether they are.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let mut state = self.queue.state();
        state.hurry = true;
        self.queue.work.notify_one();
        let waiting = |state: &mut State| state.writing || !state.lines.is_empty();
        match self.queue.written.wait_timeout_while(state, limit, waiting) {
            Ok((_, waited)) => !waited.timed_out(),
            Err(_) => false,
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.queue.state().closed = true;
        self.queue.work.notify_one();
        // Nobody waits for it here: dropping may happen at the end of a request. Flush first to be sure.
        drop(self.writer.take());
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.work.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The writer's life.
fn write(queue: &Queue, mut target: Target) {
    let mut lines = Vec::new();
    let mut failing = false;
    loop {
        let mut state = queue.state();
        while state.lines.is_empty() && !state.closed && !state.reopen {
            (state.asleep, state.hurry) = (true, false);
            state = queue.wait(state);
        }
        state.asleep = false;
        // One line is here. Others follow in a moment, and are written with it.
        let gather = |state: &mut State| !state.hurry && !state.closed && !state.reopen;
        state = match queue.work.wait_timeout_while(state, GATHER, gather) {
            Ok((state, _)) => state,
            Err(poisoned) => poisoned.into_inner().0,
        };
        std::mem::swap(&mut state.lines, &mut lines);
        let (reopen, closed) = (std::mem::take(&mut state.reopen), state.closed);
        (state.writing, state.hurry) = (true, false);
        drop(state);

        let result = target.follow(reopen).and_then(|()| target.file.write_all(&lines));
        match result {
            Ok(()) if failing && !lines.is_empty() => {
                failing = false;
                info!("the access log is written again");
            }
            Ok(()) => {}
            Err(error) => {
                let lost = lines.iter().filter(|&&byte| byte == b'\n').count();
                queue.dropped.fetch_add(lost as u64, Relaxed);
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "the access log cannot be written; its lines are lost");
                }
            }
        }
        lines.clear();
        // After a burst the memory goes back.
        lines.shrink_to(BATCH * 4);

        let mut state = queue.state();
        state.writing = false;
        queue.written.notify_all();
        if closed && state.lines.is_empty() {
            return;
        }
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

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn open(path: &Path) -> (AccessLog, Arc<Dropped>) {
        let dropped = Arc::new(Dropped::default());
        (AccessLog::open(&AccessLogOutput::File(path.into()), dropped.clone()).unwrap(), dropped)
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
            log.push(line.as_bytes());
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
        log.push(b"one\n");
        assert!(log.flush(LIMIT));
        fs::rename(&path, &old).unwrap();
        log.push(b"two\n");
        assert!(log.flush(LIMIT));
        log.reopen();
        log.push(b"three\n");
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
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            work: Condvar::new(),
            written: Condvar::new(),
            dropped: dropped.clone(),
        });
        let (given, target) = (queue.clone(), Target { file: std::os::fd::OwnedFd::from(writer).into(), named: None });
        thread::spawn(move || write(&given, target));
        let log = AccessLog { output: AccessLogOutput::Stdout, queue, writer: None };
        let line = [b'x'; 1 << 20];
        for _ in 0..32 {
            log.push(&line);
        }
        let lost = dropped.load(Relaxed);
        assert!((15..=24).contains(&lost), "{lost}");
        assert!(!log.flush(Duration::from_millis(10)));
        // The reader goes away: what was waiting is lost, which is counted too where it was lines.
        drop(reader);
        assert!(log.flush(LIMIT));
    }

    #[test]
    fn what_is_left_is_written_when_the_log_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let (mut log, _) = open(&path);
        log.push(b"last words\n");
        let writer = log.writer.take().unwrap();
        drop(log);
        writer.join().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "last words\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        let output = AccessLogOutput::File("/nowhere/access.log".into());
        assert!(AccessLog::open(&output, Arc::default()).is_err());
    }
}
