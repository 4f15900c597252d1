//! Alertmanager as a child, and the webhook that it tells.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::server::start;
use super::site::Site;
use super::{dist, free_address};
use crate::collect::Collected;
use crate::lab::Folder;
use crate::process::{Process, find_program};

/// The webhook in `alertmanager.yml`.
const WEBHOOK: &str = "127.0.0.1:9099";

/// A running Alertmanager, and what it has told.
pub(super) struct Alertmanager {
    pub(super) address: SocketAddr,
    told: Arc<Mutex<Vec<Value>>>,
    _process: Process,
    _log: Collected<String>,
    _webhook: Site,
}

impl Alertmanager {
    /// Starts one with the example configuration.
    pub(super) fn start(folder: &Folder) -> Self {
        let told = Arc::<Mutex<Vec<Value>>>::default();
        let tell = Arc::clone(&told);
        let webhook = Site::start(move |path, body| {
            let mut message: Value = serde_json::from_str(body).expect("JSON");
            message["path"] = path.into();
            let mut told = tell.lock().unwrap_or_else(PoisonError::into_inner);
            told.push(message);
            String::new()
        });
        let config = dist("prometheus/alertmanager.yml");
        assert!(config.contains(WEBHOOK), "{config}");
        let config = config.replace(WEBHOOK, &webhook.address.to_string());
        let file = folder.0.join("alertmanager.yml");
        std::fs::write(&file, config).unwrap();
        let address = free_address();
        let program = find_program("prometheus-alertmanager").expect("checked before");
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.path={}",
                folder.0.join("alerts").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            // No others to agree with.
            .arg("--cluster.listen-address=")
            .arg("--log.level=warn");
        let (process, log) = start(command, address);
        Self {
            address,
            told,
            _process: process,
            _log: log,
            _webhook: webhook,
        }
    }

    /// Each alert that has reached the webhook, as often as it has, in order, with the
    /// `path` that it came to.
    pub(super) fn told(&self) -> Vec<Value> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let alerts = told.iter().flat_map(|message| {
            let alerts = message["alerts"].as_array().expect("a list").iter();
            alerts.cloned().map(|mut alert| {
                alert["path"] = message["path"].clone();
                alert
            })
        });
        alerts.collect()
    }
}
