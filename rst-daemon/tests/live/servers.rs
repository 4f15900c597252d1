//! A real server and a real client: nginx and curl.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::expect::{owner, received, sent, socket};
use crate::lab::Lab;
use crate::netns::FAMILIES;
use crate::programs::{Server, curl, url};
use crate::tcp;

/// The port that nginx serves.
const PORT: u16 = 8080;

/// Starts nginx in the namespace and waits until it serves.
fn nginx(lab: &Lab) -> Server {
    let http = format!(
        "server {{
            listen {PORT}; listen [::]:{PORT};
            lingering_close off;
            lingering_time 0;
            client_max_body_size 1k;
            location / {{ return 200 'hello'; }}
            location /drop {{ client_max_body_size 0; return 444; }}
        }}"
    );
    Server::nginx(&lab.netns, &lab.folder, &http, PORT)
}

/// nginx drops a request without reading its body. The body is small enough to
/// arrive together with the head, so that it certainly is there, unread.
#[test]
fn nginx_drops_an_upload_of_curl() {
    let test = "nginx_drops_an_upload_of_curl";
    let Some(lab) = Lab::start(test, &["nginx", "curl"], &[]) else {
        return;
    };
    let nginx = nginx(&lab);
    let body = lab.folder.0.join("body.bin");
    std::fs::write(&body, vec![b'x'; 20_000]).unwrap();
    let file = format!("@{}", body.display());
    let mut expected = Vec::new();
    for family in FAMILIES {
        let from = family.client.to_string();
        let url = url(SocketAddr::new(family.server, PORT), "/drop");
        // Without that header curl would ask before it sends the body.
        let sending = ["--header", "Expect:", "--data-binary", &file];
        let showing = ["--write-out", "%{local_port}", "--interface", &from];
        let output = curl(&lab.netns, &[&sending[..], &showing, &[&url]].concat());
        // Receiving failed.
        assert_eq!(output.status.code(), Some(56), "{output:?}");
        let port = String::from_utf8(output.stdout).unwrap().parse().unwrap();
        let client = SocketAddr::new(family.client, port);
        let server = SocketAddr::new(family.server, PORT);
        expected.push(sent(server, client, unread(&nginx)));
        let lost = socket(json!({
            "cause": "peer_abort", "impact": "connection_broken",
            "role": "client", "state": "ESTABLISHED", "bytes_received": 0, "unread_bytes": 0,
            "owner": {"comm": "curl", "source": "connect"},
            // curl's own setting.
            "keepalive": {"enabled": true},
        }));
        expected.push(received(client, server, lost));
    }
    for event in lab.finish(&expected) {
        if event["cause"] == "unread_data" {
            // All but what nginx read for the head.
            let unread = event["unread_bytes"].as_u64().unwrap();
            assert!((18_000..20_000).contains(&unread), "{event}");
        }
    }
}

/// The upload is too large: nginx answers 413 and does not wait for the rest.
#[test]
fn nginx_refuses_a_large_upload() {
    let test = "nginx_refuses_a_large_upload";
    let Some(lab) = Lab::start(test, &["nginx"], &[]) else {
        return;
    };
    let nginx = nginx(&lab);
    let expected = lab.inside(|| {
        let mut expected = Vec::new();
        for family in FAMILIES {
            let server = SocketAddr::new(family.server, PORT);
            let (mut stream, client) = tcp::connect(family.client, server);
            let head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4000000\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            let mut answer = String::new();
            let mut reader = BufReader::new(&stream);
            while !answer.ends_with("</html>\r\n") {
                assert_ne!(reader.read_line(&mut answer).unwrap(), 0, "{answer}");
            }
            assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
            stream.write_all(&[b'x'; 1000]).unwrap();
            tcp::wait_error(&stream);
            let mut unread = unread(&nginx);
            unread["unread_bytes"] = json!(1000);
            unread["turn"] = json!("peer");
            expected.push(sent(server, client, unread));
            let lost = socket(json!({
                "cause": "peer_abort", "impact": "connection_broken",
                "role": "client", "state": "ESTABLISHED", "unread_bytes": 0,
            }));
            expected.push(received(client, server, lost));
        }
        expected
    });
    lab.finish(&expected);
}

fn unread(nginx: &Server) -> Value {
    socket(json!({
        "cause": "unread_data", "impact": "connection_broken",
        "reason": "TCP_ABORT_ON_CLOSE", "role": "server", "state": "ESTABLISHED",
        "owner": owner(nginx.0.pid(), "nginx"),
    }))
}

#[test]
fn healthy_nginx_resets_nothing() {
    let test = "healthy_nginx_resets_nothing";
    let Some(lab) = Lab::start(test, &["nginx", "curl"], &[]) else {
        return;
    };
    let _nginx = nginx(&lab);
    for family in FAMILIES {
        // One connection for all of them.
        let urls = vec![url(SocketAddr::new(family.server, PORT), "/"); 20];
        let urls: Vec<_> = urls.iter().map(String::as_str).collect();
        let output = curl(
            &lab.netns,
            &[&["--write-out", "%{num_connects} "], &urls[..]].concat(),
        );
        assert!(output.status.success(), "{output:?}");
        let body = String::from_utf8(output.stdout).unwrap();
        assert_eq!(body, format!("hello1 {}", "hello0 ".repeat(19)));
    }
    lab.finish(&[]);
}
