//! Follows files: tells when the content of one has changed.
//!
//! Editors rename, Kubernetes swaps a symlink, network mounts send no events at all. So the *directory* is watched, an
//! event in it is only a hint if it is about one of the names (`links.rs`) by which a file is reached, a slow poll stands beside
//! the hints, and what counts is whether the content differs.

mod links;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tracing::{debug, warn};

/// Writers need several system calls; a hint is looked at once they had this long.
const SETTLE: Duration = Duration::from_millis(100);
/// How often the file is looked at without a hint.
const POLL: Duration = Duration::from_secs(5);

/// A file that is followed.
pub struct Follow(FollowAll);

impl Follow {
    /// Follows a file from its present content on. Call it before reading, so that no change falls between.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(path: &Path) -> Self {
        let seen = read(path).ok().map(|content| Digest::of(&content));
        Self(FollowAll::start(vec![Followed { path: path.to_owned(), seen, gone: false }]))
    }

    /// Follows a file that was read before: the first change is one from this content.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn since(path: &Path, content: &[u8]) -> Self {
        Self(FollowAll::since([(path.to_owned(), Digest::of(content))]))
    }

    /// Waits until the content differs from what was last seen, and returns it. A file that is gone is waited for.
    ///
    /// Cancel safe: a change that was not returned is found by the next call.
    pub async fn changed(&mut self) -> Vec<u8> {
        self.0.changed().await.1
    }
}

/// Files that are followed together: with one watcher, however many they are.
pub struct FollowAll {
    files: Vec<Followed>,
    /// What events are to be about. Links come and go, so they are looked at again before the files are.
    names: Arc<ArcSwap<BTreeSet<OsString>>>,
    /// The file that is looked at next, of a round that has begun.
    next: usize,
    /// When the files are to be looked at, if something hints at a change.
    look: Option<Instant>,
    poll: Interval,
    /// `None` where the system has no events, or has them no more; the poll remains.
    hints: Option<mpsc::Receiver<()>>,
    // Dropping it ends the hints.
    _watcher: Option<RecommendedWatcher>,
}

struct Followed {
    path: PathBuf,
    seen: Option<Digest>,
    /// Whether it could not be read when it was looked at last.
    gone: bool,
}

impl FollowAll {
    /// Follows files that were read before: the first change of each is one from this content.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn since(files: impl IntoIterator<Item = (PathBuf, Digest)>) -> Self {
        let followed = |(path, seen)| Followed { path, seen: Some(seen), gone: false };
        Self { look: Some(Instant::now()), ..Self::start(files.into_iter().map(followed).collect()) }
    }

    fn start(files: Vec<Followed>) -> Self {
        // One hint says as much as many.
        let (hint, hints) = mpsc::channel(1);
        let names = Arc::new(ArcSwap::from_pointee(links::names(files.iter().map(|file| &*file.path))));
        let watched = names.clone();
        let watcher = notify::recommended_watcher(move |event| {
            if may_be_a_change(&event, &watched.load()) {
                let _ = hint.try_send(());
            }
        })
        .and_then(|mut watcher| {
            let directory = |path: &Path| match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                _ => PathBuf::from("."),
            };
            let directories: BTreeSet<PathBuf> = files.iter().map(|file| directory(&file.path)).collect();
            directories.iter().try_for_each(|directory| watcher.watch(directory, RecursiveMode::NonRecursive))?;
            Ok(watcher)
        })
        .inspect_err(|error| debug!(files = files.len(), %error, "no file events here; polling only"))
        .ok();
        let mut poll = interval_at(Instant::now() + POLL, POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let hints = watcher.is_some().then_some(hints);
        Self { files, names, next: 0, look: None, poll, hints, _watcher: watcher }
    }

    /// Waits until the content of a file differs from what was last seen of it, and returns both. A file that is gone is
    /// waited for.
    ///
    /// Cancel safe: a change that was not returned is found by the next call.
    pub async fn changed(&mut self) -> (PathBuf, Vec<u8>) {
        loop {
            if self.next == 0 {
                self.wait_for_a_hint().await;
                // Before the files: what is written through a link from here on is a hint.
                self.look_at_the_links().await;
            }
            while let Some(file) = self.files.get_mut(self.next) {
                let path = file.path.clone();
                let content = spawn_blocking(move || read(&path)).await.unwrap_or_else(|error| Err(error.into()));
                self.next += 1;
                if let Some(content) = file.note(content) {
                    return (file.path.clone(), content);
                }
            }
            (self.next, self.look) = (0, None);
        }
    }

    async fn look_at_the_links(&self) {
        let paths: Vec<_> = self.files.iter().map(|file| file.path.clone()).collect();
        let names = spawn_blocking(move || links::names(paths.iter().map(|path| &**path))).await;
        // There is none when the runtime ends.
        if let Ok(names) = names
            && names != **self.names.load()
        {
            self.names.store(Arc::new(names));
        }
    }

    /// Waits until it is time to look at the files.
    async fn wait_for_a_hint(&mut self) {
        loop {
            let hint = async {
                match &mut self.hints {
                    Some(hints) => hints.recv().await,
                    None => std::future::pending().await,
                }
            };
            let due = self.look.unwrap_or_else(|| Instant::now() + POLL);
            tokio::select! {
                () = sleep_until(due), if self.look.is_some() => return,
                _ = self.poll.tick() => self.look = Some(Instant::now()),
                hint = hint => match hint {
                    Some(()) => drop(self.look.get_or_insert_with(|| Instant::now() + SETTLE)),
                    None => self.hints = None,
                },
            }
        }
    }
}

impl Followed {
    /// What was read, if it differs from what was last seen.
    fn note(&mut self, read: io::Result<Vec<u8>>) -> Option<Vec<u8>> {
        let content = match read {
            Ok(content) => content,
            Err(error) => {
                // Said once; the poll comes by every few seconds.
                if !std::mem::replace(&mut self.gone, true) {
                    warn!(path = %self.path.display(), %error, "a followed file cannot be read; what was read last stays");
                }
                return None;
            }
        };
        self.gone = false;
        let digest = Digest::of(&content);
        (self.seen.replace(digest) != Some(digest)).then_some(content)
    }
}

/// Opens a file that may change at any time. A pipe that has come in its place is refused instead of waited for.
pub fn open(path: &Path) -> io::Result<File> {
    let mut how = OpenOptions::new();
    how.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut how, libc::O_NONBLOCK);
    let file = how.open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

/// Reads a file that may change at any time.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open(path)?.read_to_end(&mut content)?;
    Ok(content)
}

/// Whether an event may mean that something was written by one of these names. An error may, and an event about nothing in
/// particular: others were lost.
fn may_be_a_change(event: &notify::Result<Event>, names: &BTreeSet<OsString>) -> bool {
    let Ok(Event { kind, paths, .. }) = event else { return true };
    match kind {
        // Looking at the file opens it. If that were a hint, every look would lead to the next one, for ever.
        EventKind::Access(access) if *access != AccessKind::Close(AccessMode::Write) => false,
        // A log in the same directory is written to with every request.
        _ => paths.is_empty() || paths.iter().any(|path| path.file_name().is_none_or(|name| names.contains(name))),
    }
}

/// What is remembered of a file's content, which may be a secret: enough to tell whether it has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    /// The digest of a content.
    pub fn of(content: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        Self(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[tokio::test]
    async fn a_change_is_told_with_the_new_content() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("list");
        fs::write(&path, "old").expect("written");
        let mut follow = Follow::new(&path);
        fs::write(&path, "new").expect("written");
        assert_eq!(follow.changed().await, b"new");
    }

    #[tokio::test]
    async fn a_change_from_before_it_was_followed_is_found_at_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("list");
        fs::write(&path, "new").expect("written");
        assert_eq!(Follow::since(&path, b"old").changed().await, b"new");
    }

    #[tokio::test]
    async fn a_file_that_is_gone_is_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("list");
        fs::write(&path, "old").expect("written");
        let mut follow = Follow::new(&path);
        fs::remove_file(&path).expect("removed");
        tokio::select! {
            biased;
            content = follow.changed() => panic!("a file that is gone has no content, not {content:?}"),
            () = tokio::time::sleep(SETTLE * 3) => {}
        }
        fs::write(&path, "new").expect("written");
        assert_eq!(follow.changed().await, b"new");
    }

    #[tokio::test]
    async fn a_pipe_in_a_files_place_holds_up_nobody() {
        // Whoever opened it waited for a writer, for ever, and no other file was looked at again.
        let directory = tempfile::tempdir().expect("a directory");
        let paths = ["a", "b"].map(|name| directory.path().join(name));
        paths.iter().for_each(|path| fs::write(path, "old").expect("written"));
        let mut follow = FollowAll::since(paths.iter().map(|path| (path.clone(), Digest::of(b"old"))));
        fs::remove_file(&paths[0]).expect("removed");
        let made = std::process::Command::new("mkfifo").arg(&paths[0]).status().expect("mkfifo is here");
        assert!(made.success());
        assert_eq!(read(&paths[0]).expect_err("it is no file").to_string(), "it is no regular file");
        fs::write(&paths[1], "new").expect("written");
        let changed = tokio::time::timeout(POLL * 2, follow.changed()).await.expect("the pipe is not waited for");
        assert_eq!(changed, (paths[1].clone(), b"new".to_vec()));
        fs::remove_file(&paths[0]).expect("removed");
        fs::write(&paths[0], "new").expect("written");
        assert_eq!(follow.changed().await, (paths[0].clone(), b"new".to_vec()));
    }

    #[tokio::test]
    async fn an_editors_rename_and_a_symlink_swap_are_changes() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        fs::write(at("one"), "1").expect("written");
        fs::write(at("two"), "2").expect("written");
        symlink(at("one"), at("list")).expect("linked");
        let mut follow = Follow::new(&at("list"));

        symlink(at("two"), at("next")).expect("linked");
        fs::rename(at("next"), at("list")).expect("renamed");
        assert_eq!(follow.changed().await, b"2");

        fs::write(at("three"), "3").expect("written");
        fs::rename(at("three"), at("list")).expect("renamed");
        assert_eq!(follow.changed().await, b"3");
    }

    #[tokio::test]
    async fn many_files_are_followed_as_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let other = tempfile::tempdir().expect("a directory");
        let paths = [directory.path().join("a"), directory.path().join("b"), other.path().join("c")];
        paths.iter().for_each(|path| fs::write(path, "old").expect("written"));
        let mut follow = FollowAll::since(paths.iter().map(|path| (path.clone(), Digest::of(b"old"))));
        for (path, content) in [(&paths[2], "1"), (&paths[0], "2"), (&paths[0], "3")] {
            fs::write(path, content).expect("written");
            assert_eq!(follow.changed().await, (path.clone(), content.as_bytes().to_vec()));
        }
        // Two at once are told one after the other.
        fs::write(&paths[0], "both").expect("written");
        fs::write(&paths[1], "both").expect("written");
        let told = [follow.changed().await.0, follow.changed().await.0];
        assert!(told.contains(&paths[0]) && told.contains(&paths[1]), "{told:?}");
    }

    #[tokio::test]
    async fn looking_at_the_file_is_no_hint_to_look_again() {
        // It was one: every followed file was read ten times a second.
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("list");
        fs::write(&path, "old").expect("written");
        let (sender, mut events) = mpsc::unbounded_channel();
        let mut watcher = notify::recommended_watcher(move |event| drop(sender.send(event))).expect("a watcher");
        watcher.watch(directory.path(), RecursiveMode::NonRecursive).expect("watched");
        let names = links::names([&*path, Path::new("end")]);
        fs::read(&path).expect("read");
        fs::write(directory.path().join("end"), "").expect("written");
        let mut hints = Vec::new();
        loop {
            let event = events.recv().await.expect("an event");
            let at_the_end = event.as_ref().is_ok_and(|event| event.paths.iter().any(|path| path.ends_with("end")));
            if at_the_end {
                assert!(may_be_a_change(&event, &names), "{event:?}");
                break;
            }
            hints.extend(may_be_a_change(&event, &names).then_some(event));
        }
        assert!(hints.is_empty(), "{hints:?}");
    }

    /// Whether something hints at a change before it would be looked for anyway.
    async fn is_hinted_at(follow: &mut Follow) -> bool {
        let hinted = tokio::time::timeout(SETTLE * 5, follow.0.wait_for_a_hint()).await.is_ok();
        follow.0.look = None;
        hinted
    }

    #[tokio::test]
    async fn what_is_written_beside_the_file_is_no_hint() {
        // An access log in the configuration's directory had all of it read ten times a second.
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        fs::write(at("list"), "old").expect("written");
        let mut follow = Follow::new(&at("list"));
        fs::write(at("access.log"), "a line").expect("written");
        fs::rename(at("access.log"), at("access.log.1")).expect("renamed");
        fs::remove_file(at("access.log.1")).expect("removed");
        assert!(!is_hinted_at(&mut follow).await);
        fs::write(at("list"), "new").expect("written");
        assert!(is_hinted_at(&mut follow).await);
    }

    #[tokio::test]
    async fn a_mounted_volume_that_is_swapped_is_hinted_at_every_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let put = |version: &str| {
            fs::create_dir(at(version)).expect("made");
            fs::write(at(version).join("list"), version).expect("written");
            symlink(version, at("..data_tmp")).expect("linked");
            fs::rename(at("..data_tmp"), at("..data")).expect("renamed");
        };
        put("..1");
        symlink("..data/list", at("list")).expect("linked");
        let mut follow = Follow::new(&at("list"));
        for version in ["..2", "..3"] {
            put(version);
            let changed = tokio::time::timeout(SETTLE * 20, follow.changed()).await;
            assert_eq!(changed.expect("it is hinted at"), version.as_bytes());
        }
    }

    #[tokio::test]
    async fn what_a_link_leads_to_is_hinted_at_also_after_the_link_was_changed() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        fs::write(at("one"), "1").expect("written");
        fs::write(at("two"), "2").expect("written");
        symlink("one", at("list")).expect("linked");
        let mut follow = Follow::new(&at("list"));
        fs::write(at("one"), "changed").expect("written");
        assert!(is_hinted_at(&mut follow).await);
        symlink("two", at("next")).expect("linked");
        fs::rename(at("next"), at("list")).expect("renamed");
        assert_eq!(follow.changed().await, b"2");
        while is_hinted_at(&mut follow).await {}
        fs::write(at("two"), "changed, too").expect("written");
        assert!(is_hinted_at(&mut follow).await);
    }

    #[tokio::test]
    async fn a_relative_path_is_hinted_at() {
        let directory = tempfile::tempdir().expect("a directory");
        let here = std::env::current_dir().expect("a directory");
        let up = here.components().skip(1).map(|_| "..").collect::<PathBuf>();
        let path = up.join(directory.path().strip_prefix("/").expect("it is absolute")).join("list");
        fs::write(&path, "old").expect("written");
        let mut follow = Follow::new(&path);
        let mut temporary = path.clone();
        temporary.set_extension("swp");
        fs::write(&temporary, "new").expect("written");
        assert!(!is_hinted_at(&mut follow).await);
        fs::rename(&temporary, &path).expect("renamed");
        assert!(is_hinted_at(&mut follow).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_content_again_is_no_change() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("list");
        fs::write(&path, "same").expect("written");
        let mut follow = Follow::new(&path);
        fs::write(&path, "same").expect("written");
        let waited = tokio::time::timeout(Duration::from_secs(60), follow.changed()).await;
        assert!(waited.is_err(), "nothing changed");
    }
}
