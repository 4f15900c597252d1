//! The thread of the HTTP servers. Handshakes and scrapes are paid for there, and
//! passwords on one beside it: no client holds up the reader of the ring buffer.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

use crate::serve::bind::{BindError, BoundSocket, bind_tcp, bind_unix};

/// A thread with a runtime of its own. Dropped, it ends, and what runs on it.
#[derive(Debug)]
pub struct ServerThread {
    /// There until it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl ServerThread {
    /// Starts it.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .thread_name("rst-http")
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// Opens the UNIX socket and the TCP listener, to be served there.
    pub async fn bind(
        &self,
        socket: &Path,
        address: SocketAddr,
    ) -> Result<(BoundSocket, TcpListener), BindError> {
        let socket = {
            let _inside = self.handle.enter();
            bind_unix(socket)?
        };
        let bound = self.spawn(bind_tcp(address)).await;
        let listener = bound.unwrap_or_else(|error| {
            let source = error.into();
            Err(BindError::Tcp { address, source })
        })?;
        Ok((socket, listener))
    }

    /// Runs this there.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.handle.spawn(task)
    }
}

impl Drop for ServerThread {
    fn drop(&mut self) {
        // A runtime must not be waited for in another.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
