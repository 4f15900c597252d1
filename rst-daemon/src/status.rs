//! What the daemon tells of itself: each probe, and what is lost without it.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::kernel::verdict::{Judged, Told};

/// Version of the JSON form.
const VERSION: u32 = 1;

/// How the daemon stands.
#[derive(Clone, Debug)]
pub struct Report {
    /// `uname -r`.
    pub kernel: String,
    /// Every probe, in the order of [`crate::kernel::probes::PROBES`].
    pub probes: Arc<[Judged]>,
}

/// The same as its readers have it: the JSON object of `/api/v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    v: u32,
    version: String,
    /// `uname -r`.
    pub kernel: String,
    /// Whether resets are counted.
    pub ready: bool,
    /// Every probe.
    pub probes: Vec<Told>,
}

impl Report {
    /// As one JSON object.
    pub fn to_json(&self, ready: bool) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Status {
            v: VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: self.kernel.clone(),
            ready,
            probes: self.probes.iter().map(Judged::told).collect(),
        })
    }

    /// As text, a line or more for each probe.
    #[must_use]
    pub fn to_text(&self, ready: bool) -> String {
        let mut text = format!(
            "rst {} on Linux {}: {}\n",
            env!("CARGO_PKG_VERSION"),
            self.kernel,
            if ready { "ready" } else { "not ready" }
        );
        for judged in self.probes.iter() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{judged}");
        }
        text
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kernel::probes::PROBES;
    use crate::kernel::verdict::Verdict;

    /// The first probe attached, the second taken off since, the third refused.
    pub(crate) fn report() -> Report {
        let verdicts = [
            Verdict::Attached,
            Verdict::Detached,
            Verdict::Refused("no".to_owned()),
        ];
        let judged = PROBES
            .iter()
            .zip(verdicts)
            .map(|(probe, verdict)| Judged { probe, verdict });
        Report {
            kernel: "6.1.0".to_owned(),
            probes: judged.collect(),
        }
    }

    #[test]
    fn each_probe_is_told_as_json() {
        let bytes = report().to_json(true).unwrap();
        let mut value: Value = serde_json::from_slice(&bytes).unwrap();
        let probes = value["probes"].take();
        assert_eq!(
            value,
            json!({"v": 1, "version": env!("CARGO_PKG_VERSION"), "kernel": "6.1.0",
                "ready": true, "probes": null})
        );
        assert_eq!(
            probes[0],
            json!({"probe": PROBES[0].name, "required": true, "verdict": "attached",
                "why": null, "shows": PROBES[0].shows})
        );
        assert_eq!(probes[1]["verdict"], "detached");
        assert_eq!(
            probes[2],
            json!({"probe": PROBES[2].name, "required": true, "verdict": "refused",
                "why": "no", "shows": PROBES[2].shows})
        );
    }

    #[test]
    fn each_probe_is_told_as_text() {
        let text = report().to_text(false);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].ends_with(" on Linux 6.1.0: not ready"), "{text}");
        for (line, (probe, word)) in lines[1..]
            .iter()
            .zip(PROBES.iter().zip(["attached", "detached", "refused"]))
        {
            assert!(
                line.starts_with(&format!("{}: {word}", probe.name)),
                "{line}"
            );
        }
        assert_eq!(lines.len(), 4);
    }
}
