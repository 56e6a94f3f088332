//! By which names a file is reached: its own, and those of the symbolic links on the way to it.
//!
//! Kubernetes mounts `gateway.toml -> ..data/gateway.toml` and `..data -> ..2026_01_02`, and a change is a new `..data`. So it
//! is not enough to know the name that somebody asked for.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf, absolute};

/// How many places are looked at for one file. Linux follows no more than 40 links.
const PLACES: usize = 256;

/// The names of all that can lead to another file, or be written to, when somebody opens one of these. Rather one too many:
/// names of directories are among them, and where something is called by a name does not count.
pub(super) fn names<'a>(paths: impl IntoIterator<Item = &'a Path>) -> BTreeSet<OsString> {
    let mut names = BTreeSet::new();
    for path in paths {
        trace(path, &mut names);
    }
    names
}

fn trace(path: &Path, names: &mut BTreeSet<OsString>) {
    let mut seen = BTreeSet::new();
    let mut open = vec![absolute(path).unwrap_or_else(|_| path.to_owned())];
    while let Some(path) = open.pop() {
        for place in path.ancestors() {
            if seen.len() >= PLACES || !seen.insert(place.to_owned()) {
                break;
            }
            names.extend(place.file_name().map(ToOwned::to_owned));
            // An absolute target takes the place of what it is joined to.
            if let (Ok(target), Some(directory)) = (place.read_link(), place.parent()) {
                open.push(directory.join::<PathBuf>(target));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir, write};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_link_on_the_way_counts_and_nothing_beside_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        create_dir(at("..2026")).expect("made");
        write(at("..2026/list"), "").expect("written");
        write(at("beside"), "").expect("written");
        symlink("..2026", at("..data")).expect("linked");
        symlink(at("..data/list"), at("whole")).expect("linked");
        symlink("whole", at("named")).expect("linked");
        let names = names([at("named").as_path()]);
        for name in ["named", "whole", "..data", "..2026", "list"] {
            assert!(names.contains(Path::new(name).as_os_str()), "{name} of {names:?}");
        }
        assert!(!names.contains(Path::new("beside").as_os_str()), "{names:?}");
    }

    #[test]
    fn links_that_lead_nowhere_or_round_and_round_come_to_an_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        symlink("b/c", at("a")).expect("linked");
        symlink("a/d", at("b")).expect("linked");
        let names = names([at("a").as_path(), Path::new("no-such-file"), Path::new("")]);
        for name in ["a", "b", "no-such-file"] {
            assert!(names.contains(Path::new(name).as_os_str()), "{name} of {names:?}");
        }
    }
}
