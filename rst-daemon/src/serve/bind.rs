//! Opening the listeners, with errors that say what to do.

use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener, UnixSocket};

/// Root and the group may connect.
const SOCKET_MODE: u32 = 0o660;

/// Connections that wait to be accepted on the UNIX socket.
const BACKLOG: u32 = 128;

/// Why a listener could not be opened.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error("{0} is in use by another program; choose another with --listen")]
    InUse(SocketAddr),
    /// The port needs a privilege.
    #[error(
        "not permitted to listen on {0}; a port below 1024 needs CAP_NET_BIND_SERVICE, choose another with --listen"
    )]
    NotPermitted(SocketAddr),
    /// No interface has the address.
    #[error("no interface of this host has the address of {0}; choose another with --listen")]
    NoSuchAddress(SocketAddr),
    /// Any other fault of a TCP listener.
    #[error("can't listen on {address}: {source}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// The fault.
        source: io::Error,
    },
    /// A daemon serves this socket.
    #[error(
        "another rst daemon serves {}; stop it, or choose another socket with --socket",
        .0.display()
    )]
    Served(PathBuf),
    /// Something that is no socket is in the way; it is left alone.
    #[error(
        "{} exists and is not a socket; remove it, or choose another with --socket",
        .0.display()
    )]
    NotASocket(PathBuf),
    /// Any other fault of a UNIX socket.
    #[error("can't {action} {}: {source}; choose another socket with --socket if need be", path.display())]
    Unix {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The fault.
        source: io::Error,
    },
}

/// Opens the TCP listener.
pub async fn bind_tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| {
        let kind = source.kind();
        if kind == io::ErrorKind::AddrInUse {
            BindError::InUse(address)
        } else if kind == io::ErrorKind::PermissionDenied {
            BindError::NotPermitted(address)
        } else if kind == io::ErrorKind::AddrNotAvailable {
            BindError::NoSuchAddress(address)
        } else {
            BindError::Tcp { address, source }
        }
    })
}

/// A UNIX socket that is listened on. Dropped, it is removed.
#[derive(Debug)]
pub struct BoundSocket {
    /// Before the guard, and so closed before the file is removed.
    pub(super) listener: UnixListener,
    pub(super) guard: SocketGuard,
}

/// Opens the UNIX socket, in place of one that a dead daemon left.
///
/// Two daemons that start at once can't both find it stale: `PATH.lock` is
/// locked before the look and held for the guard's life. The lock file stays
/// behind, since removing it would let two daemons lock two files of one name.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn bind_unix(path: &Path) -> Result<BoundSocket, BindError> {
    let fault = |action, path: &Path| {
        let path = path.to_owned();
        move |source| BindError::Unix {
            action,
            path,
            source,
        }
    };
    if let Some(parent) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(fault("create the directory", parent))?;
    }
    let lock = lock(path)?;

    match path.symlink_metadata() {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket(path.into()));
        }
        Ok(_) if is_served(path).map_err(fault("try the socket", path))? => {
            return Err(BindError::Served(path.into()));
        }
        Ok(_) => match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(fault("remove the stale socket", path)(error));
            }
            _ => {}
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fault("look at", path)(error)),
    }

    let socket = UnixSocket::new_stream().map_err(fault("make the socket", path))?;
    // The file that bind makes takes its mode from the socket, less the umask
    // (`unix_bind_bsd`): nobody else can connect before the mode is set below.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(SOCKET_MODE))
        .map_err(|errno| fault("restrict the socket", path)(errno.into()))?;
    socket.bind(path).map_err(fault("make the socket", path))?;
    let made = path.symlink_metadata().map_err(fault("look at", path))?;
    let guard = SocketGuard {
        path: path.into(),
        identity: (made.dev(), made.ino()),
        _lock: lock,
    };
    std::fs::set_permissions(path, PermissionsExt::from_mode(SOCKET_MODE))
        .map_err(fault("set the mode of", path))?;
    let listener = socket.listen(BACKLOG).map_err(fault("listen on", path))?;
    Ok(BoundSocket { listener, guard })
}

/// Locks `PATH.lock`, which only its owner may open: whoever could lock it could
/// keep the daemon from starting.
fn lock(path: &Path) -> Result<OwnedFd, BindError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let fault = |action| {
        let path = lock_path.clone();
        move |errno: Errno| BindError::Unix {
            action,
            path,
            source: errno.into(),
        }
    };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(&lock_path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(fault("open the lock file"))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(BindError::Served(path.into())),
        Err(errno) => Err(fault("lock")(errno)),
    }
}

/// Whether anybody accepts connections on the socket file. Does not wait for
/// one that is too busy to.
fn is_served(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&probe, &SocketAddrUnix::new(path)?) {
        // `AGAIN`: the backlog of a listener is full.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Holds the lock on the socket's path and removes the socket when dropped,
/// unless another file stands there by then.
#[derive(Debug)]
pub(super) struct SocketGuard {
    path: PathBuf,
    /// Device and inode of the file we made.
    identity: (u64, u64),
    _lock: OwnedFd,
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        let ours = self
            .path
            .symlink_metadata()
            .is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if ours {
            // Where it fails the next daemon finds a stale socket.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use tokio::net::UnixStream;

    use super::*;
    use crate::testing::{self, TempDir};

    fn exists(path: &Path) -> bool {
        path.symlink_metadata().is_ok()
    }

    #[test]
    fn a_port_in_use_is_named() {
        testing::run(async {
            let first = bind_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
            let address = first.local_addr().unwrap();
            assert_eq!(
                bind_tcp(address).await.unwrap_err().to_string(),
                format!("{address} is in use by another program; choose another with --listen")
            );
        });
    }

    #[test]
    fn an_address_of_another_host_is_named() {
        testing::run(async {
            // TEST-NET-1 (RFC 5737) is nobody's.
            let error = bind_tcp("192.0.2.1:0".parse().unwrap()).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                "no interface of this host has the address of 192.0.2.1:0; choose another with \
                 --listen"
            );
        });
    }

    #[test]
    fn the_socket_is_made_with_its_directory_and_removed() {
        testing::run(async {
            let dir = TempDir::new();
            let path = dir.join("a/b/rst.sock");
            let socket = bind_unix(&path).unwrap();
            let mode = path.symlink_metadata().unwrap().mode();
            assert_eq!(mode & 0o777, SOCKET_MODE);
            UnixStream::connect(&path).await.unwrap();
            drop(socket);
            assert!(!exists(&path));
        });
    }

    #[test]
    fn a_second_daemon_is_refused() {
        testing::run(async {
            let dir = TempDir::new();
            let path = dir.join("rst.sock");
            let _socket = bind_unix(&path).unwrap();
            let message = bind_unix(&path).unwrap_err().to_string();
            let start = format!("another rst daemon serves {};", path.display());
            assert!(message.starts_with(&start), "{message}");
            UnixStream::connect(&path).await.unwrap();
        });
    }

    #[test]
    fn a_live_socket_without_a_lock_is_respected() {
        testing::run(async {
            let dir = TempDir::new();
            let path = dir.join("rst.sock");
            let _other = UnixListener::bind(&path).unwrap();
            let error = bind_unix(&path).unwrap_err();
            assert!(matches!(error, BindError::Served(_)), "{error}");
            assert!(exists(&path));
        });
    }

    #[test]
    fn a_daemon_that_is_still_starting_is_respected() {
        testing::run(async {
            let dir = TempDir::new();
            let path = dir.join("rst.sock");
            drop(UnixListener::bind(&path).unwrap());
            // The other one holds the lock and has not replaced the socket yet.
            let lock = lock(&path).unwrap();
            let error = bind_unix(&path).unwrap_err();
            assert!(matches!(error, BindError::Served(_)), "{error}");
            assert!(exists(&path));
            drop(lock);
            bind_unix(&path).unwrap();
        });
    }

    #[test]
    fn of_many_that_start_at_once_over_a_stale_socket_one_wins() {
        let dir = TempDir::new();
        let path = dir.join("rst.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let barrier = std::sync::Barrier::new(8);
        // Winners keep their guard until all have tried.
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        testing::run(async {
                            barrier.wait();
                            let outcome = bind_unix(&path);
                            barrier.wait();
                            outcome
                        })
                    })
                })
                .collect();
            threads.into_iter().map(|it| it.join().unwrap()).collect()
        });
        let won = outcomes.iter().filter(|it| it.is_ok()).count();
        assert_eq!(won, 1);
        let lost = |it: &Result<BoundSocket, BindError>| matches!(it, Err(BindError::Served(_)));
        assert_eq!(outcomes.iter().filter(|it| lost(it)).count(), 7);
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        testing::run(async {
            let dir = TempDir::new();
            let path = dir.join("rst.sock");
            drop(UnixListener::bind(&path).unwrap());
            assert!(exists(&path));
            let _socket = bind_unix(&path).unwrap();
            UnixStream::connect(&path).await.unwrap();
        });
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        testing::run(async {
            let dir = TempDir::new();
            let file = dir.join("file");
            std::fs::write(&file, "precious").unwrap();
            let link = dir.join("link");
            std::os::unix::fs::symlink(&file, &link).unwrap();
            let dangling = dir.join("dangling");
            std::os::unix::fs::symlink(dir.join("nowhere"), &dangling).unwrap();
            let stale = dir.join("stale");
            drop(UnixListener::bind(&stale).unwrap());
            let to_stale = dir.join("to-stale");
            std::os::unix::fs::symlink(&stale, &to_stale).unwrap();
            let directory = dir.join("directory");
            std::fs::create_dir(&directory).unwrap();
            for path in [file, link, dangling, to_stale, directory] {
                let error = bind_unix(&path).unwrap_err();
                assert_eq!(
                    error.to_string(),
                    format!(
                        "{} exists and is not a socket; remove it, or choose another with --socket",
                        path.display()
                    )
                );
                assert!(exists(&path));
            }
            assert!(exists(&stale));
            assert_eq!(std::fs::read(dir.join("file")).unwrap(), b"precious");
        });
    }

    #[test]
    fn a_socket_of_another_kind_is_left_alone() {
        testing::run(async {
            let dir = TempDir::new();
            let path = dir.join("datagram");
            let _other = UnixDatagram::bind(&path).unwrap();
            let message = bind_unix(&path).unwrap_err().to_string();
            assert!(message.starts_with("can't try the socket "), "{message}");
            assert!(exists(&path));
        });
    }

    #[test]
    fn the_lock_is_not_taken_through_a_link() {
        testing::run(async {
            let dir = TempDir::new();
            std::os::unix::fs::symlink(dir.join("target"), dir.join("rst.sock.lock")).unwrap();
            let message = bind_unix(&dir.join("rst.sock")).unwrap_err().to_string();
            assert!(
                message.starts_with("can't open the lock file "),
                "{message}"
            );
            assert!(!exists(&dir.join("target")));
        });
    }

    #[test]
    fn the_guard_leaves_a_file_that_is_not_ours() {
        testing::run(async {
            let dir = TempDir::new();
            let path = dir.join("rst.sock");
            let socket = bind_unix(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, "new").unwrap();
            drop(socket);
            assert!(exists(&path));
        });
    }

    #[test]
    fn a_live_socket_that_is_too_busy_is_respected() {
        testing::run(async {
            let dir = TempDir::new();
            let path = dir.join("rst.sock");
            let other = UnixSocket::new_stream().unwrap();
            other.bind(&path).unwrap();
            // A backlog of 0 holds one connection.
            let _other = other.listen(0).unwrap();
            let _waiting = UnixStream::connect(&path).await.unwrap();
            assert!(
                UnixStream::connect(&path).await.is_err(),
                "the backlog is full"
            );
            let error = bind_unix(&path).unwrap_err();
            assert!(matches!(error, BindError::Served(_)), "{error}");
            assert!(exists(&path));
        });
    }

    #[test]
    fn a_long_path_is_an_error() {
        testing::run(async {
            let dir = TempDir::new();
            let path = dir.join("x".repeat(120));
            let error = bind_unix(&path).unwrap_err();
            assert!(matches!(error, BindError::Unix { .. }), "{error}");
        });
    }
}
