//! One spike of resets as users see it: the JSON object of `rst incidents --json` and of
//! `/api/v1/incidents`. Field names are a public interface; unknown facts are `null`.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::reset::{Reset, Restart};

/// Version of the JSON object.
pub const VERSION: u32 = 1;

/// A spike of resets of one service for one cause, and what is known of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// [`VERSION`].
    pub v: u32,
    /// Its own: second of its opening and a number that counts up.
    pub id: String,
    /// Host name of the machine.
    pub host: String,
    /// The service that lost connections, by its name in the metrics; `unknown` and
    /// `other` as there.
    pub workload: String,
    /// `client`, `server` or `unknown`: what this host was.
    pub role: String,
    /// The service's port; `null` where there is none or no room for it.
    pub port: Option<u16>,
    /// Label of the cause.
    pub cause: String,
    /// Label of the impact: `connect_failed` or `connection_broken`.
    pub impact: String,
    /// When it was noticed, UTC.
    pub opened: Timestamp,
    /// When it was found over, UTC; `null` while it goes on.
    pub closed: Option<Timestamp>,
    /// The reading of the counts before the first of its resets, UTC.
    pub first: Timestamp,
    /// While it goes on the last reading that found more resets, then the last one that
    /// found more than usual, UTC.
    pub last: Timestamp,
    /// Resets of this kind since `first`, exact; up to `closed` where it is over.
    pub resets: u64,
    /// Connections of the service that came about meanwhile.
    pub connections: u64,
    /// Resets a second that are usual.
    pub usual_per_second: f64,
    /// It did not end: what there is has lasted for a day and counts as usual now.
    pub usual_now: bool,
    /// Resets that were described one by one: what all below rests on.
    pub described: u64,
    /// The peers with the most resets among them, the most first.
    pub peers: Vec<Peer>,
    /// The middle one of the silences before them, milliseconds, for causes that have
    /// one.
    pub idle_ms: Option<u64>,
    /// Restarts that they come of.
    pub restarts: Vec<Restart>,
    /// The first of them.
    pub samples: Vec<Reset>,
    /// Whose timer it may have been.
    pub hint: Option<String>,
    /// What to do about it.
    pub advice: String,
}

/// A peer and how many of the resets described had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its address.
    pub ip: IpAddr,
    /// So many at most.
    pub resets: u64,
    /// So many of them may have been of other peers: more peers than are remembered.
    pub uncertain: u64,
}
