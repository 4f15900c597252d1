//! How full the table of sockets is.

use crate::collect::wait_until;
use crate::lab::Lab;
use crate::metrics::Scrape;
use crate::netns::FAMILIES;
use crate::tcp::Pair;

/// Connections of each family.
const PAIRS: u64 = 100;

/// Sockets of others that may come and go meanwhile.
const OTHERS: u64 = 50;

/// Both ends of each connection count while they live.
#[test]
fn tracked_sockets_are_told() {
    let Some(lab) = Lab::start("tracked_sockets_are_told", &[], &[]) else {
        return;
    };
    let tracked = || Scrape::take(&lab.daemon.socket).value("rst_tracked_sockets");
    let before = tracked();
    let pairs: Vec<Pair> = lab.inside(|| {
        let each = |family| (0..PAIRS).map(move |_| Pair::new(family));
        FAMILIES.into_iter().flat_map(each).collect()
    });
    wait_until("both ends of each are tracked", || {
        tracked() + OTHERS >= before + 4 * PAIRS
    });
    drop(pairs);
    wait_until("none of them is any more", || tracked() <= before + OTHERS);
    lab.finish(&[]);
}
