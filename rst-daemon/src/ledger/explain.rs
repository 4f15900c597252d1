//! Says in words what the ledger shows.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::Report;
use super::snmp::Counter;

/// What a kernel does not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blindness {
    /// Before 6.10: resets sent from closed ports and from TIME_WAIT, where the
    /// functions that send them can't be probed.
    NoSocket,
    /// Only those that could not be made for want of memory.
    None,
}

impl Report {
    /// Why there may be resets that rst has not seen, one line; `None` where there
    /// are none.
    #[must_use]
    pub fn explain(&self) -> Option<String> {
        if self.unaccounted == 0 {
            return None;
        }
        let mut text = format!(
            "{} resets that this host has sent are missing in rst_resets_total: the kernel counted {}, rst {}",
            self.unaccounted,
            self.kernel[Counter::OutResets].unwrap_or(0),
            self.ours.sent,
        );
        if self.ours.missed_sent != 0 {
            let _ = write!(text, " and {} misses", self.ours.missed_sent);
        }
        if self.credited != 0 {
            let _ = write!(
                text,
                "; {} more than that went with their network namespaces, uncounted",
                self.credited
            );
        }
        if !self.suspects.is_empty() {
            text.push_str("; meanwhile resets were sent in");
            for (number, suspect) in self.suspects.iter().enumerate() {
                text.push_str(if number == 0 { " " } else { ", " });
                match suspect.inode {
                    Some(inode) => {
                        let _ = write!(text, "netns {inode} ({})", suspect.name);
                    }
                    None => {
                        let _ = write!(text, "the netns of {}", suspect.name);
                    }
                }
                let _ = write!(text, ": {}", suspect.grown);
            }
        }
        let failed = self.kernel[Counter::AbortFailed].unwrap_or(0);
        text.push_str(match (self.blindness, failed) {
            (Blindness::NoSocket, _) => {
                "; this kernel shows no reset that it sends from a closed port or from TIME_WAIT: rst could not probe tcp_v4_send_reset or tcp_v6_send_reset, and said why when it started"
            }
            (Blindness::None, 1..) => {
                "; those that could not be made for want of memory, at most TCPAbortFailed, are counted by the kernel but not shown"
            }
            (Blindness::None, 0) => {
                "; this kernel shows every reset it counts, so its tracepoint was passed over"
            }
        });
        Some(text)
    }
}

/// How often the log may tell.
const PAUSE: Duration = Duration::from_secs(60);

/// What the log has told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    last: Option<Instant>,
    unaccounted: u64,
}

impl Told {
    /// Whether to tell this now: a change, and not too soon.
    pub(super) fn tell(&mut self, unaccounted: u64, now: Instant) -> bool {
        let soon = |last| now.saturating_duration_since(last) < PAUSE;
        if unaccounted == self.unaccounted || self.last.is_some_and(soon) {
            return false;
        }
        *self = Self {
            last: Some(now),
            unaccounted,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::namespaces::Growth;
    use super::super::snmp::Values;
    use super::super::{Ours, Report};
    use super::*;

    fn report() -> Report {
        let mut kernel = Values::default();
        kernel[Counter::OutResets] = Some(1015);
        Report {
            kernel,
            ours: Ours {
                sent: 1000,
                missed_sent: 3,
                missed_received: 1,
            },
            unaccounted: 12,
            credited: 0,
            suspects: vec![
                Growth {
                    inode: Some(4_026_532_177),
                    name: "nginx[812]".to_owned(),
                    grown: 9,
                },
                Growth {
                    inode: None,
                    name: "rst's own".to_owned(),
                    grown: 4,
                },
            ],
            namespaces: 2,
            unread: 0,
            blindness: Blindness::NoSocket,
        }
    }

    #[test]
    fn a_gap_in_words() {
        assert_eq!(
            report().explain().unwrap(),
            "12 resets that this host has sent are missing in rst_resets_total: the kernel counted 1015, rst 1000 and 3 misses; \
             meanwhile resets were sent in netns 4026532177 (nginx[812]): 9, the netns of rst's own: 4; \
             this kernel shows no reset that it sends from a closed port or from TIME_WAIT: rst could not probe tcp_v4_send_reset or tcp_v6_send_reset, and said why when it started"
        );
        let mut failed = Report {
            blindness: Blindness::None,
            credited: 7,
            suspects: vec![],
            ..report()
        };
        failed.kernel[Counter::AbortFailed] = Some(12);
        assert_eq!(
            failed.explain().unwrap(),
            "12 resets that this host has sent are missing in rst_resets_total: the kernel counted 1015, rst 1000 and 3 misses; \
             7 more than that went with their network namespaces, uncounted; \
             those that could not be made for want of memory, at most TCPAbortFailed, are counted by the kernel but not shown"
        );
        let even = Report {
            unaccounted: 0,
            ..report()
        };
        assert_eq!(even.explain(), None);
    }

    #[test]
    fn the_log_tells_a_change_and_not_too_often() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut told = Told::default();
        assert!(!told.tell(0, start));
        assert!(told.tell(3, start));
        assert!(!told.tell(3, start + 100 * second));
        assert!(told.tell(4, start + 101 * second));
        assert!(!told.tell(5, start + 160 * second));
        assert!(told.tell(5, start + 161 * second));
    }
}
