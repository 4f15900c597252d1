//! One exchange in memory, for the fuzzer (`rst-daemon/fuzz`).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::sync::{Semaphore, watch};

use super::{Limits, Offer, Paced, Readiness, Serve, connection};
use crate::hub::Hub;
use crate::status::Report;

/// What a client of the UNIX socket gets for these bytes. A stream is left once it
/// begins.
///
/// # Panics
/// Where no runtime can be made.
#[must_use]
#[expect(clippy::expect_used, reason = "a fuzzer may stop")]
pub fn exchange(request: &[u8]) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime for one thread");
    runtime.block_on(async {
        let serve = Arc::new(Serve {
            hub: Hub::new(),
            ready: Readiness::new(),
            scrape: Paced::new(Arc::new(|| Ok(b"rst_build_info 1\n".to_vec()))),
            incidents: Arc::new(|_| Ok(b"[]".to_vec())),
            status: Arc::new(|| Report {
                kernel: "6.1.0".to_owned(),
                probes: Arc::new([]),
            }),
        });
        let (_stop, shutdown) = watch::channel(false);
        let offer = Offer {
            limits: Limits::default(),
            streams: Some(Arc::new(Semaphore::new(1))),
            gate: None,
            shutdown,
        };
        let (mut client, server) = duplex(1 << 20);
        // A client that has gone is no error.
        let _ = client.write_all(request).await;
        let _ = client.shutdown().await;
        let served = connection(server, serve, offer, Arc::new(AtomicBool::new(false)));
        let mut answer = Vec::new();
        let read = async {
            while client.read_buf(&mut answer).await.is_ok_and(|len| len != 0) {
                if answer.windows(17).any(|part| part == b"text/event-stream") {
                    break;
                }
            }
        };
        tokio::pin!(read);
        tokio::select! {
            () = served => read.await,
            () = &mut read => {}
        }
        answer
    })
}
