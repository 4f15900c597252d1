//! Uploads that are refused before they have arrived, over a long line: what is
//! under way meets a closed connection.

use std::io::Write as _;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::expect::{matches, owner, verdict};
use crate::lab::Lab;
use crate::line::{Line, TUN};
use crate::netns::FAMILIES;
use crate::programs::Server;
use crate::tcp;

const PORT: u16 = 8080;

/// One way.
const DELAY: Duration = Duration::from_millis(20);

/// Between two pieces of the upload: several are always under way.
const PACE: Duration = Duration::from_millis(4);

/// Far more than can be sent before the reset arrives.
const PIECES: usize = 1000;

/// nginx answers 413 at once and reads no further: one connection is broken,
/// however many segments were under way.
#[test]
fn early_413_is_counted_once() {
    let Some(lab) = Lab::start("early_413_is_counted_once", &["nginx", TUN], &[]) else {
        return;
    };
    let far = lab.another();
    let line = Line::new(&lab.netns, &far, 1, DELAY);
    let settings = format!(
        "server {{
            listen {PORT}; listen [::]:{PORT};
            client_header_buffer_size 1k;
            client_max_body_size 1k;
            lingering_close off; lingering_time 0;
        }}"
    );
    let nginx = Server::nginx(&far, &lab.folder, &settings, PORT);
    let ends = line.ends.map(|family| {
        let server = SocketAddr::new(family.server, PORT);
        let (stream, client) = lab.inside(|| tcp::connect(family.client, server));
        stream.set_nodelay(true).unwrap();
        upload(stream);
        (server, client)
    });
    let expected = ends.map(|(server, client)| {
        let unread = ["unread_data", "connection_broken", "server"];
        let mut unread = verdict("sent", server, client, unread);
        unread["owner"] = owner(nginx.0.pid(), "nginx");
        unread["reason"] = json!("TCP_ABORT_ON_CLOSE");
        let lost = ["peer_abort", "connection_broken", "client"];
        let lost = verdict("received", client, server, lost);
        [unread, lost]
    });
    let more = |(server, client)| {
        let more = ["after_reset", "benign", "server"];
        verdict("sent", server, client, more)
    };
    let more = ends.map(more);
    let is_more = |event: &Value| more.iter().any(|more| matches(more, event));
    let events = lab.finish_with(&expected.concat(), is_more);
    for more in &more {
        let of_this = |event: &&Value| matches(more, event);
        assert!(events.iter().filter(of_this).count() > 1);
    }
}

/// Sends until the reset is there.
fn upload(mut stream: std::net::TcpStream) {
    let head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4000000\r\n\r\n";
    let start = [head.as_bytes(), &[b'x'; 3000]].concat();
    stream.write_all(&start).unwrap();
    let broken = (0..PIECES).any(|_| {
        sleep(PACE);
        stream.write_all(&[b'x'; 500]).is_err()
    });
    assert!(broken, "nginx takes it all");
}

/// The client stops in the middle of its upload, and nginx resets what has
/// timed out.
#[test]
fn nginx_resets_a_stalled_upload() {
    let test = "nginx_resets_a_stalled_upload";
    let Some(lab) = Lab::configured(test, &["nginx"], "idle_ms = 200", &[]) else {
        return;
    };
    let settings = format!(
        "reset_timedout_connection on; client_body_timeout 1s;
        server {{
            listen {PORT}; listen [::]:{PORT};
            location / {{ proxy_pass http://127.0.0.1:{PORT}; }}
        }}"
    );
    let nginx = Server::nginx(&lab.netns, &lab.folder, &settings, PORT);
    let expected = FAMILIES.map(|family| {
        let server = SocketAddr::new(family.server, PORT);
        let (mut stream, client) = lab.inside(|| tcp::connect(family.client, server));
        let head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        tcp::wait_error(&stream);
        let aborted = ["app_abort", "connection_broken", "server"];
        let mut aborted = verdict("sent", server, client, aborted);
        aborted["owner"] = owner(nginx.0.pid(), "nginx");
        aborted["linger"] = json!({"time_s": 0});
        let lost = ["no_response", "connection_broken", "client"];
        [aborted, verdict("received", client, server, lost)]
    });
    for event in lab.finish(&expected.concat()) {
        let idle = event["idle_segment_ms"].as_u64().unwrap();
        assert!((950..1500).contains(&idle), "{event}");
    }
}
