//! `rst history`: what was told is still there, with the daemon and without it,
//! after its sudden death, and after a disk that was full.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::collect::wait_until;
use crate::expect::{check, no_socket, received, sent};
use crate::lab::{DATA, Lab, STOP};
use crate::metrics::Scrape;
use crate::netns::{FAMILIES, V4};
use crate::process::RST;
use crate::tcp::{closed_port, connect_refused};

/// Runs `rst history`.
fn history(data: &Path, flags: &[&str]) -> Output {
    history_by(Command::new(RST), data, flags)
}

fn history_by(mut command: Command, data: &Path, flags: &[&str]) -> Output {
    command.arg("history").arg("--data-dir").arg(data);
    command.env("TZ", "UTC").args(flags).output().unwrap()
}

/// The objects that it prints.
fn objects(data: &Path, flags: &[&str]) -> Vec<Value> {
    objects_of(&history(data, &[&["--json"], flags].concat()))
}

fn objects_of(output: &Output) -> Vec<Value> {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    let lines = String::from_utf8_lossy(&output.stdout);
    let objects = lines.lines().map(serde_json::from_str::<Value>);
    objects.map(Result::unwrap).collect()
}

/// The only resets of a lab that go to this port.
fn resets(lab: &Lab, port: u16) -> Vec<Value> {
    let own = |event: &Value| {
        lab.is_own(event) && (event["local"]["port"] == port || event["remote"]["port"] == port)
    };
    let mut objects = objects(&lab.folder.0.join(DATA), &["--port", &port.to_string()]);
    objects.retain(own);
    objects
}

fn refused(server: SocketAddr, client: SocketAddr) -> [Value; 2] {
    let cause = json!({"cause": "refused"});
    [
        sent(server, client, no_socket(cause.clone())),
        received(client, server, cause),
    ]
}

/// What the watcher was shown is what is stored, field by field.
#[test]
fn history_shows_what_watchers_were_shown() {
    let Some(mut lab) = Lab::start("history_shows_what_watchers_were_shown", &[], &[]) else {
        return;
    };
    let data = lab.folder.0.join(DATA);
    let mut expected = Vec::new();
    for family in FAMILIES {
        let server = closed_port(family);
        let client = lab.inside(|| connect_refused(family.client, server));
        expected.extend(refused(server, client));
    }
    let port = closed_port(V4).port();
    wait_until("all are stored", || resets(&lab, port).len() >= 4);
    let while_it_runs = resets(&lab, port);
    check(&while_it_runs, &expected).unwrap();
    let watched: Vec<Value> = lab
        .watcher
        .events()
        .into_iter()
        .map(|seen| seen.event)
        .collect();
    for event in &while_it_runs {
        assert!(watched.contains(event), "nobody was shown {event}");
    }

    let port = port.to_string();
    let sent = objects(&data, &["--port", &port, "--direction", "sent"]);
    assert!(sent.len() >= 2 && sent.iter().all(|event| event["direction"] == "sent"));
    assert_eq!(objects(&data, &["--port", &port, "--limit", "1"]).len(), 1);
    assert!(objects(&data, &["--until", "2020-01-01"]).is_empty());
    assert!(objects(&data, &["--cause", "memory_pressure"]).is_empty());

    lab.daemon.stop(Signal::TERM);
    let netns = lab.netns.inode.to_string();
    let flags = ["--since", "1h", "--port", &port, "--netns", &netns];
    assert_eq!(objects(&data, &flags), while_it_runs);
    let text = String::from_utf8(history(&data, &flags).stdout).unwrap();
    // Both ends are one story.
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    let day = while_it_runs[0]["time"].as_str().unwrap()[..10].to_owned();
    for line in lines {
        assert!(
            line.starts_with(&day) && line.contains(" refused "),
            "{line}"
        );
    }
    // Whoever has no rst has sqlite3.
    let connection =
        Connection::open_with_flags(data.join("rst.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let impacts: Vec<String> = connection
        .prepare("SELECT DISTINCT json ->> 'impact' FROM resets WHERE netns = ?1 AND port = ?2 AND direction = 'received'")
        .unwrap()
        .query_map([&netns, &port], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(impacts, ["connect_failed"]);
}

/// Nothing that was written is lost, and the next daemon goes on with it.
#[test]
fn killed_daemon_leaves_a_readable_store() {
    let Some(mut lab) = Lab::start("killed_daemon_leaves_a_readable_store", &[], &[]) else {
        return;
    };
    let data = lab.folder.0.join(DATA);
    let port = closed_port(V4).port();
    let before = Scrape::take(&lab.daemon.socket);
    let written = |before: &Scrape| {
        let now = Scrape::take(&lab.daemon.socket);
        now.sum(before, "rst_store_written_total", &[])
    };
    lab.inside(|| {
        while written(&before) < 500 {
            for _ in 0..50 {
                connect_refused(V4.client, closed_port(V4));
            }
        }
    });
    let at_least = written(&Scrape::nothing());
    lab.daemon.process.signal(Signal::KILL);
    lab.daemon.process.wait(STOP);
    let kept = objects(&data, &[]).len() as u64;
    assert!(kept >= at_least, "{kept} of {at_least}");
    let connection = Connection::open(data.join("rst.db")).unwrap();
    let integrity: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(integrity, "ok");
    drop(connection);
    let all = resets(&lab, port).len();

    lab.restart();
    lab.inside(|| connect_refused(V4.client, closed_port(V4)));
    wait_until("the next resets are stored", || {
        resets(&lab, port).len() == all + 2
    });
}

/// The daemon's data on a file system of its own, which is filled up.
#[test]
fn full_disk_passes_and_counts_go_on() {
    let test = "full_disk_passes_and_counts_go_on";
    let mut data = PathBuf::new();
    let by = |daemon: Command| {
        let args: Vec<_> = daemon.get_args().map(ToOwned::to_owned).collect();
        let position = args.iter().position(|arg| arg == "--data-dir").unwrap();
        data = PathBuf::from(&args[position + 1]);
        fs::create_dir(&data).unwrap();
        let mut command = Command::new("unshare");
        let script = r#"mount -t tmpfs -o size=4m tmpfs "$0" && exec "$@""#;
        command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
        command.arg(&data).arg(daemon.get_program()).args(args);
        command
    };
    let Some(lab) = Lab::by(test, &["unshare"], "", by) else {
        return;
    };
    // The mount is seen by the daemon alone, and through it.
    let pid = lab.daemon.process.pid().to_string();
    let inside = Path::new("/proc").join(&pid).join("root");
    let inside = inside.join(data.strip_prefix("/").unwrap());
    let stored = |client: u16| {
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid, "--mount", "--", RST]);
        let (client, netns) = (client.to_string(), lab.netns.inode.to_string());
        let flags = ["--json", "--port", &client, "--netns", &netns];
        objects_of(&history_by(command, &data, &flags)).len()
    };
    let up = || Scrape::take(&lab.daemon.socket).value("rst_store_up");
    let before = Scrape::take(&lab.daemon.socket);
    let full = |now: &Scrape| now.sum(&before, "rst_store_dropped_total", &[("why", "disk_full")]);
    wait_until("the store is there", || up() == 1);
    // What is left is a few resets' worth.
    let filler = inside.join("filler");
    let result = fs::write(&filler, vec![0; 4 << 20]);
    assert!(result.is_err(), "there was room");

    let port = closed_port(V4).port();
    let (mut made, mut now) = (0u64, before.clone());
    wait_until("the disk is full", || {
        lab.inside(|| connect_refused(V4.client, closed_port(V4)));
        made += 1;
        now = Scrape::take(&lab.daemon.socket);
        full(&now) > 0
    });
    assert_eq!(up(), 0);
    let port_label = port.to_string();
    let labels = [("direction", "received"), ("port", port_label.as_str())];
    assert_eq!(now.resets(&before, &labels), made);
    let said = |part: &str| lab.daemon.log().matches(part).count();
    wait_until("the full disk is said", || said("the disk is full") > 0);

    fs::remove_file(&filler).unwrap();
    wait_until("the store goes on", || {
        lab.inside(|| connect_refused(V4.client, closed_port(V4)));
        up() == 1
    });
    let client = lab.inside(|| connect_refused(V4.client, closed_port(V4)));
    wait_until("the last reset is stored", || stored(client.port()) == 2);
    // Once each.
    assert_eq!(
        (said("the disk is full"), said("the store is written again")),
        (1, 1)
    );
}

/// What can't be had is said, with what to do.
#[test]
fn history_says_what_is_wrong() {
    let folder = crate::lab::Folder::new();
    let said = |flags: &[&str], code| {
        let output = history(&folder.0, flags);
        assert_eq!(output.status.code(), Some(code));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said(&[], 1).contains("there is no store at "));
    assert!(said(&["--since", "tea time"], 2).contains("15m, 1h, 2d"));
    let backwards = said(&["--since", "1h", "--until", "2h"], 1);
    assert!(backwards.contains("exchange them"), "{backwards}");
}
