//! Follows the files that certificates, keys and authorities come from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portcullis_middleware::follow::{Digest, FollowAll};
use portcullis_middleware::plugin::Task;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

/// A certificate and its key are two files, and nobody can write both at once. What is no good is looked at again after
/// this, and only then told of.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// How often it is told again what is odd.
const REMIND: Duration = Duration::from_secs(24 * 60 * 60);

/// Something that was made from files, and can be made anew.
pub(super) trait FromFiles: Send + Sync + 'static {
    /// The files, and what was read of them.
    fn files(&self) -> Vec<(PathBuf, Digest)>;

    /// A file has changed. Takes over what it says now; with an error, which is a sentence, everything stays as it is.
    fn reread(&self, file: &Path) -> Result<(), String>;

    /// A sentence for everything that is odd about what is in use, as a certificate that ends soon.
    fn oddities(&self, now: SystemTime) -> Vec<String>;
}

/// Everything of a plan that was made from files.
#[derive(Default)]
pub struct Files(Vec<Arc<dyn FromFiles>>);

impl Files {
    pub(super) fn add(&mut self, made: Arc<dyn FromFiles>) {
        self.0.push(made);
    }

    /// Follows the files while the plan is live. `None` if there are none.
    pub fn follow(self) -> Option<Task> {
        if self.0.is_empty() {
            return None;
        }
        Some(Box::new(|stop| {
            Box::pin(async move {
                let _ = stop.run_until_cancelled(self.follow_for_ever()).await;
            })
        }))
    }

    async fn follow_for_ever(self) {
        let known: BTreeMap<PathBuf, Digest> = self.0.iter().flat_map(|made| made.files()).collect();
        let mut follow = FollowAll::since(known);
        // What was no good at the first look, and when it is looked at again.
        let mut doubtful: BTreeMap<PathBuf, Instant> = BTreeMap::new();
        let mut reminder = Instant::now() + REMIND;
        loop {
            let next = doubtful.iter().min_by_key(|(_, when)| **when).map(|(path, when)| (path.clone(), *when));
            let second_look = async {
                match next {
                    Some((path, when)) => {
                        sleep_until(when).await;
                        path
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                (path, _) = follow.changed() => match self.reread(&path) {
                    Ok(()) => {
                        doubtful.remove(&path);
                        info!(file = %path.display(), "a certificate's file has changed, and the new one is in use");
                        self.remind(&path);
                    }
                    Err(_) => drop(doubtful.insert(path, Instant::now() + SECOND_LOOK)),
                },
                path = second_look => {
                    doubtful.remove(&path);
                    match self.reread(&path) {
                        Ok(()) => {
                            info!(file = %path.display(), "a certificate's file has changed, and the new one is in use");
                            self.remind(&path);
                        }
                        Err(error) => {
                            warn!(file = %path.display(), error, "the new file is no good; what was read before stays in use");
                        }
                    }
                }
                () = sleep_until(reminder) => {
                    reminder += REMIND;
                    self.0.iter().flat_map(|made| made.oddities(SystemTime::now())).for_each(|said| warn!("{said}"));
                }
            }
        }
    }

    fn reread(&self, path: &Path) -> Result<(), String> {
        // One file may serve several, and what is no good for one may do for another.
        let all: Vec<Result<(), String>> = self.0.iter().map(|made| made.reread(path)).collect();
        all.into_iter().collect()
    }

    fn remind(&self, path: &Path) {
        let concerned = self.0.iter().filter(|made| made.files().iter().any(|(file, _)| file == path));
        concerned.flat_map(|made| made.oddities(SystemTime::now())).for_each(|said| warn!("{said}"));
    }
}
