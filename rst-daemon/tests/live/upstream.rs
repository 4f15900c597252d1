//! nginx in front of gunicorn, far away: a pool of kept-alive connections and
//! two timers.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use rst_common::tcp::state;
use serde_json::{Value, json};

use crate::collect::wait_until;
use crate::expect::verdict;
use crate::lab::Lab;
use crate::line::{Line, TUN};
use crate::netns::{Family, Netns};
use crate::programs::{End, Server, ends, http};
use crate::tcp;

/// nginx.
const FRONT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// gunicorn.
const PORT: u16 = 8000;

/// One way: a request has this long to cross a FIN.
const DELAY: Duration = Duration::from_millis(50);

/// How often a request may fail to cross it.
const TRIES: usize = 3;

const TOOLS: [&str; 3] = ["nginx", "gunicorn", TUN];

const APP: &str = r"
def app(environ, start_response):
    environ['wsgi.input'].read()
    start_response('200 OK', [('Content-Length', '5')])
    return [b'hello']
";

/// The pool keeps its connections longer or shorter than gunicorn does, which
/// keeps them for a second or two.
struct Site {
    _nginx: Server,
    _gunicorn: Server,
    line: Line,
    back: Netns,
}

impl Site {
    fn start(lab: &Lab, pool_timeout: &str) -> Self {
        let back = lab.another();
        let line = Line::new(&lab.netns, &back, 1, DELAY);
        let listen = line.ends.map(|family| SocketAddr::new(family.server, PORT));
        let threads = ["--worker-class", "gthread", "--keep-alive", "1"];
        let gunicorn = Server::gunicorn(&back, &lab.folder, APP, &threads, listen);
        let upstream = |name, server| {
            format!(
                "upstream {name} {{
                    server {server}; keepalive 8; keepalive_timeout {pool_timeout};
                }}"
            )
        };
        let location = |name| {
            format!(
                "location /{name} {{
                    proxy_pass http://{name};
                    proxy_http_version 1.1; proxy_set_header Connection '';
                }}"
            )
        };
        let settings = format!(
            "{} {} server {{ listen {FRONT}; {} {} }}",
            upstream("v4", listen[0]),
            upstream("v6", listen[1]),
            location("v4"),
            location("v6"),
        );
        let nginx = Server::nginx(&lab.netns, &lab.folder, &settings, FRONT.port());
        Self {
            _nginx: nginx,
            _gunicorn: gunicorn,
            line,
            back,
        }
    }
}

fn path(family: Family) -> &'static str {
    if family.server.is_ipv4() {
        "/v4"
    } else {
        "/v6"
    }
}

/// gunicorn's keep-alive is shorter than the pool's, and a request crosses its
/// FIN.
#[test]
fn gunicorn_closes_as_nginx_sends() {
    let test = "gunicorn_closes_as_nginx_sends";
    let Some(lab) = Lab::start(test, &TOOLS, &[]) else {
        return;
    };
    let site = Site::start(&lab, "60s");
    let mut expected = Vec::new();
    for family in site.line.ends {
        let port = cross(&lab, &site, path(family));
        let client = SocketAddr::new(family.client, port);
        let server = SocketAddr::new(family.server, PORT);
        let late = ["late_data", "connection_broken", "server"];
        let mut late = verdict("sent", server, client, late);
        late["reason"] = json!("TCP_ABORT_ON_DATA");
        let lost = ["peer_closed", "connection_broken", "client"];
        let lost = verdict("received", client, server, lost);
        expected.extend([late, lost]);
    }
    drop(site);
    // nginx's own FIN meets a connection that is gone.
    let events = lab.finish_with(&expected, closed_twice);
    assert!(events.iter().any(closed_twice));
}

fn closed_twice(event: &Value) -> bool {
    event["direction"] == "sent" && event["cause"] == "after_reset" && event["impact"] == "benign"
}

/// Sends a request at the moment when gunicorn closes; the port of nginx's end.
fn cross(lab: &Lab, site: &Site, path: &str) -> u16 {
    for _ in 0..TRIES {
        let answer = lab.inside(|| http(FRONT, "GET", path));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let (mut waiting, _) = lab.inside(|| tcp::connect(FRONT.ip(), FRONT));
        let closed = site.back.inside(gunicorn_closes);
        // Far more than what may be the end of a TLS connection.
        let head = format!("POST {path} HTTP/1.0\r\nContent-Length: 300\r\n\r\n");
        let request = [head.as_bytes(), &[b'x'; 300]].concat();
        waiting.write_all(&request).unwrap();
        let answer = std::io::read_to_string(waiting).unwrap();
        // nginx sends no request twice that may have done something.
        if answer.starts_with("HTTP/1.1 502 ") {
            return closed;
        }
    }
    panic!("no request crosses a FIN in {TRIES} tries");
}

/// Waits until gunicorn closes its connection, whose other port it returns.
fn gunicorn_closes() -> u16 {
    let find = |state| ends(PORT).into_iter().find(|end| end.state == state);
    let mut closing: Option<End> = None;
    assert!(
        find(state::ESTABLISHED).is_some(),
        "nginx keeps its connection"
    );
    wait_until("gunicorn closes", || {
        closing = find(state::FIN_WAIT1);
        closing.is_some()
    });
    closing.expect("just found").peer_port
}

/// The pool's timer is the shorter one: whoever comes, nothing is reset.
#[test]
fn nginx_closes_before_gunicorn() {
    let test = "nginx_closes_before_gunicorn";
    let Some(lab) = Lab::start(test, &TOOLS, &[]) else {
        return;
    };
    let site = Site::start(&lab, "300ms");
    // Around the pool's timer, and far from it.
    for pause in [0, 280, 300, 320, 500] {
        for family in site.line.ends {
            let answer = lab.inside(|| http(FRONT, "GET", path(family)));
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        sleep(Duration::from_millis(pause));
    }
    drop(site);
    lab.finish(&[]);
}
