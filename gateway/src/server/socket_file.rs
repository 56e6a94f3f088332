//! A unix socket's name in the file system: how it comes there, and how it goes.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// Who may connect: owner and group. Whoever else may is let in by the group, or kept out by the directory.
const MODE: u32 = 0o660;

/// The name of a socket that this process listens at. Dropping it removes the name, but never somebody else's.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode. Nobody reuses them while we hold the socket.
    identity: (u64, u64),
}

impl SocketFile {
    /// Takes the name away, so that nobody finds the socket any more.
    pub(super) fn remove(&self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // Whoever removed it in this very moment meant the same.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Listens at a path; why it cannot be is a clause. What a dead process left there is replaced, and nothing else.
pub(super) fn listen(path: &Path) -> Result<(UnixListener, SocketFile), String> {
    make_way(path)?;
    bind(path).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => "somebody else has just taken the path".to_owned(),
        ErrorKind::NotFound => "its directory does not exist; create it, or choose another path".to_owned(),
        ErrorKind::PermissionDenied => format!("its directory lets nobody create a socket in it ({error})"),
        _ => error.to_string(),
    })
}

fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile { path: path.to_owned(), identity: identity(path)? };
    // Nobody can connect before it listens, so there is no moment in which others than those meant could.
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    socket.listen(4096)?;
    Ok((socket.into(), file))
}

/// Removes a socket at which nobody listens.
fn make_way(path: &Path) -> Result<(), String> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    if !found.file_type().is_socket() {
        return Err("what is there is no socket, and is not replaced; move it away, or choose another path".to_owned());
    }
    match knock(path) {
        Ok(true) => Err("somebody listens there; stop the program that has it, or choose another path".to_owned()),
        Ok(false) => match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(format!("a socket at which nobody listens is in the way and cannot be removed ({error})"))
            }
            _ => Ok(()),
        },
        Err(error) => Err(format!("there is a socket, and whether somebody listens cannot be told ({error})")),
    }
}

/// Whether somebody listens at a socket.
fn knock(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Where a queue is full, a connection waits, and somebody listens.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock => Ok(true),
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => Ok(false),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_nobody_listens_at_is_replaced_and_what_is_somebody_elses_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.sock");

        let (first, file) = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        assert_eq!(
            listen(&path).unwrap_err(),
            "somebody listens there; stop the program that has it, or choose another path"
        );
        // As a process leaves it that is killed.
        drop(first);
        std::mem::forget(file);
        let (second, file) = listen(&path).unwrap();

        // Somebody moved it away and put another one there.
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists(), "the other one is not ours to remove");
        drop((second, other));

        let (_third, file) = listen(&path).unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        fs::write(&path, "precious").unwrap();
        assert!(listen(&path).unwrap_err().starts_with("what is there is no socket, and is not replaced"));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert!(listen(&folder.path().join("none/p.sock")).unwrap_err().contains("does not exist"));
    }
}
