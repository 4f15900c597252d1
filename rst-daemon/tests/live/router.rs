//! A router that forgets idle connections and resets what it does not know.

use std::io::Write as _;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use rustix::net::sockopt;
use serde_json::{Value, json};

use crate::expect::verdict;
use crate::lab::Lab;
use crate::netns::{Family, Netns};
use crate::process::find_program;
use crate::tcp::{self, Pair};

/// How long the router remembers an idle connection, in seconds.
const MEMORY: u64 = 1;

const RULES: &str = "table inet router {
    chain forwarding {
        type filter hook forward priority 0; policy accept;
        meta l4proto tcp ct state invalid reject with tcp reset
    }
}";

/// A router and a server behind it; the client is in the lab's namespace.
pub(crate) struct Routed {
    pub(crate) router: Netns,
    pub(crate) server: Netns,
    pub(crate) ends: [Family; 2],
}

/// The server's device.
pub(crate) const SERVER_DEVICE: &str = "far2";

impl Routed {
    /// A router that does nothing but forward.
    pub(crate) fn new(lab: &Lab) -> Self {
        let (router, server) = (lab.another(), lab.another());
        let near = lab.netns.join(&router, 1);
        let far = router.join(&server, 2);
        for (near, far) in near.iter().zip(&far) {
            let to_router = near.server.to_string();
            lab.netns
                .ip(&["route", "add", "default", "via", &to_router]);
            let to_router = far.client.to_string();
            server.ip(&["route", "add", "default", "via", &to_router]);
        }
        router.set("ipv4/ip_forward", 1);
        router.set("ipv6/conf/all/forwarding", 1);
        let ends = [0, 1].map(|family| Family {
            server: far[family].server,
            client: near[family].client,
        });
        Self {
            router,
            server,
            ends,
        }
    }
}

/// A router that forgets.
struct Site(Routed);

impl Site {
    fn new(lab: &Lab) -> Self {
        let site = Routed::new(lab);
        let router = &site.router;
        router.set("netfilter/nf_conntrack_tcp_timeout_established", MEMORY);
        router.set("netfilter/nf_conntrack_tcp_loose", 0);
        let nft = find_program("nft").expect("checked before");
        let mut nft: Command = router.command(nft);
        let output = nft.arg(RULES).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Self(site)
    }

    /// Connections that have been used.
    fn pool(&self, lab: &Lab) -> [Pair; 2] {
        self.0.ends.map(|ends| {
            let mut pair = Pair::across(&lab.netns, &self.0.server, ends);
            pair.ask(b"question");
            pair.answer(b"answer");
            pair
        })
    }
}

/// What the router itself sends.
fn rejected(event: &Value) -> bool {
    event["direction"] == "sent" && event["cause"] == "firewall_reject"
}

/// A pooled connection is used again after the router has forgotten it.
#[test]
fn router_forgets_a_pooled_connection() {
    let test = "router_forgets_a_pooled_connection";
    let Some(lab) = Lab::start(test, &["nft"], &[]) else {
        return;
    };
    let site = Site::new(&lab);
    let pairs = site.pool(&lab);
    sleep(Duration::from_millis(MEMORY * 1000 + 500));
    let expected = pairs.map(|mut pair| {
        pair.client.write_all(b"again").unwrap();
        tcp::wait_error(&pair.client);
        tcp::vanish(pair.server);
        let lost = ["stale_reuse", "connection_broken", "client"];
        let mut lost = verdict("received", pair.client_end, pair.server_end, lost);
        lost["state"] = json!("ESTABLISHED");
        lost["unacked_bytes"] = json!(5);
        lost
    });
    for event in lab.finish_with(&expected, rejected) {
        if event["direction"] == "received" {
            let idle = event["idle_segment_ms"].as_u64().unwrap();
            assert!((1500..3000).contains(&idle), "{event}");
        }
    }
}

/// Keep-alive probes are too rare to keep the router's memory fresh.
#[test]
fn router_forgets_between_probes() {
    let test = "router_forgets_between_probes";
    let Some(lab) = Lab::start(test, &["nft"], &[]) else {
        return;
    };
    let site = Site::new(&lab);
    let pairs = site.pool(&lab);
    let idle = MEMORY + 1;
    for pair in &pairs {
        sockopt::set_tcp_keepidle(&pair.client, Duration::from_secs(idle)).unwrap();
        sockopt::set_socket_keepalive(&pair.client, true).unwrap();
    }
    let expected = pairs.map(|pair| {
        tcp::wait_error(&pair.client);
        tcp::vanish(pair.server);
        let lost = ["stale_probe", "uncertain", "client"];
        let mut lost = verdict("received", pair.client_end, pair.server_end, lost);
        lost["probes_out"] = json!(1);
        lost["keepalive"] = json!({"enabled": true, "time_s": idle});
        lost
    });
    lab.finish_with(&expected, rejected);
}
