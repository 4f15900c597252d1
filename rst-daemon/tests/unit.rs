//! The unit file, as systemd reads it.

use std::process::Command;

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/rst-daemon.service");

/// The most that `systemd-analyze security` may find the service exposed, tenths.
const EXPOSURE: u32 = 25;

/// What `systemd-analyze` says of the unit; `None` where it is not installed.
fn analyze(args: &[&str]) -> Option<(bool, String)> {
    let output = Command::new("systemd-analyze")
        .args(args)
        .arg("--no-pager")
        .arg(UNIT)
        .output();
    let Ok(output) = output else {
        println!("SKIPPED: {args:?}: needs systemd-analyze");
        return None;
    };
    let text = [output.stdout, output.stderr].concat();
    Some((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

#[test]
fn little_is_exposed() {
    let threshold = format!("--threshold={EXPOSURE}");
    let Some((within, text)) = analyze(&["security", "--offline=true", &threshold]) else {
        return;
    };
    let last = text.trim_end().lines().last().unwrap_or_default();
    assert!(last.contains("Overall exposure level"), "{text}");
    assert!(within, "{text}");
    println!("{last}");
}

/// systemd ignores a setting that it does not know, and says so.
#[test]
fn every_setting_is_known() {
    let Some((_, text)) = analyze(&["verify", "--man=no"]) else {
        return;
    };
    let faults: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("rst-daemon.service"))
        // It is not installed here.
        .filter(|line| !line.contains("Command /usr/bin/rst is not executable"))
        .collect();
    assert_eq!(faults, [""; 0], "{text}");
}
