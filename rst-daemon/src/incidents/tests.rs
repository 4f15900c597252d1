//! The book of incidents.

use jiff::{SignedDuration, tz::TimeZone};
use rst_common::cause::{Impact, Role};

use super::*;
use crate::spike::Service;
use crate::testing;
use crate::text::Style;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn key(port: u16) -> Key {
    Key {
        service: Service {
            workload: "web.service".into(),
            role: Role::Server,
            port: Label::Value(port),
        },
        cause: Cause::Refused,
        impact: Impact::ConnectFailed,
    }
}

fn opening() -> Opening {
    Opening {
        steps: 3,
        resets: 50,
        usual: 0.02,
    }
}

fn change(port: u16, turn: Turn) -> Change {
    Change {
        key: key(port),
        turn,
        resets: 100,
        connections: 1000,
    }
}

fn open(book: &mut Book, port: u16, second: i64) {
    let opening = opening();
    book.open(&change(port, Turn::Opened(opening)), &opening, at(second));
}

fn close(book: &mut Book, port: u16, second: i64) -> Option<Incident> {
    let turn = Turn::Closed {
        calm: 60,
        usual: false,
    };
    book.close(&change(port, turn), at(second))
}

fn reading(resets: u64, connections: u64) -> Reading {
    Reading {
        served: Vec::new(),
        connections: [(key(80).service, connections)].into(),
        resets: [(key(80), resets)].into(),
    }
}

fn detail(second: i64) -> Detail {
    Detail {
        key: key(80),
        at: at(second),
        peer: Some("10.0.0.7".parse().unwrap()),
        silence_ms: Some(60_000),
        hint: Some("a timer".into()),
    }
}

#[test]
fn an_incident_counts_what_comes_after_its_beginning() {
    let mut book = Book::new("web1".into());
    open(&mut book, 80, 10);
    assert!(book.has(&key(80)) && !book.has(&key(81)));
    for (second, resets) in [(12, 170), (14, 180), (16, 180)] {
        book.count(&reading(resets, 1020), at(second));
    }
    let told = book.told(&key(80)).unwrap();
    assert_eq!((told.resets, told.connections), (80, 20));
    assert_eq!(
        (told.first, told.opened, told.last),
        (at(4), at(10), at(14))
    );
    assert!((told.usual_per_second - 0.01).abs() < 1e-9);
    let of = (Arc::from("web.service"), Cause::Refused);
    let total = |opened, active| [(of.clone(), Total { opened, active })].into();
    assert_eq!(book.totals(), total(1, 1));

    let over = close(&mut book, 80, 140).unwrap();
    assert_eq!((over.last, over.closed), (at(14), Some(at(140))));
    assert_eq!(over.resets, 80);
    assert_eq!(book.totals(), total(1, 0));
    assert_eq!(book.list(at(140)), std::slice::from_ref(&over));
    assert_eq!(book.list(at(141)), []);
    assert_eq!(close(&mut book, 80, 200), None);
    open(&mut book, 80, 300);
    assert_eq!(book.totals(), total(2, 1));
    let ids: Vec<_> = book.list(at(0)).into_iter().map(|it| it.id).collect();
    assert_eq!(ids, ["1000010-1", "1000300-2"]);
}

#[test]
fn details_say_who_and_how() {
    let mut book = Book::new("web1".into());
    assert!(!book.see(detail(5)), "nothing is open");
    open(&mut book, 80, 10);
    assert!(!book.see(detail(3)), "before it");
    let samples = (0..20).filter(|second| {
        let wanted = book.see(detail(5 + second));
        if wanted {
            book.sample(&key(80), testing::reset());
        }
        wanted
    });
    assert_eq!(samples.count(), SAMPLES);
    let told = book.told(&key(80)).unwrap();
    assert_eq!(told.described, 20);
    let peer = Peer {
        ip: "10.0.0.7".parse().unwrap(),
        resets: 20,
        uncertain: 0,
    };
    assert_eq!(told.peers, [peer]);
    assert_eq!(told.idle_ms, Some(60_000));
    assert_eq!(told.hint.as_deref(), Some("a timer"));
    assert_eq!(told.samples.len(), SAMPLES);
}

#[test]
fn a_restart_is_linked_once_and_followed_to_its_end() {
    let mut book = Book::new("web1".into());
    open(&mut book, 80, 10);
    let linked = Linked {
        address: Address {
            netns: 1,
            port: 80,
            family: 1,
            address: [0, 0],
        },
        stopped_ns: 5,
        restart: Restart {
            started: None,
            ..testing::restarted().restart
        },
    };
    for _ in 0..2 {
        book.link(&key(80), linked.clone());
    }
    let mut looked = 0;
    for _ in 0..3 {
        book.follow(|linked| {
            looked += 1;
            linked.restart.started = Some(at(12));
        });
    }
    assert_eq!(looked, 1, "over is over");
    let restarts = book.told(&key(80)).unwrap().restarts;
    assert_eq!(restarts.len(), 1);
    assert_eq!(restarts[0].started, Some(at(12)));
}

#[test]
fn so_many_are_kept_and_no_more() {
    let mut book = Book::new("web1".into());
    for port in 1..=300 {
        open(&mut book, port, i64::from(port));
    }
    assert_eq!(book.open.len(), OPEN);
    let total = |book: &Book| *book.totals().values().next().unwrap();
    let (opened, active) = (300, OPEN);
    assert_eq!(total(&book), Total { opened, active });
    for port in 1..=300 {
        close(&mut book, port, 400);
    }
    assert_eq!(total(&book), Total { opened, active: 0 });
    open(&mut book, 80, 500);
    close(&mut book, 80, 600);
    assert_eq!(book.list(at(0)).len(), CLOSED);
    assert_eq!(book.list(at(0))[0].port, Some(2), "the oldest goes");
}

#[test]
fn an_incident_can_be_stored_as_json() {
    let incident = testing::incident();
    let json = serde_json::to_string(&incident).unwrap();
    assert_eq!(serde_json::from_str::<Incident>(&json).unwrap(), incident);
    assert!(json.starts_with("{\"v\":1,\"id\":\"1795225402-1\",\"host\":\"web1\""));
}

#[test]
fn the_journal_has_a_line_at_each_end() {
    let mut incident = testing::incident();
    assert_eq!(
        tell::opened(&incident),
        "incident 1795225402-1 opened: refused (connect_failed) of gunicorn.service, server, \
         port 8000, 163 resets in 12.0s, usually 0.01 a second; gunicorn.service was not \
         listening for 2.1s: 57 resets in between; matches the 60 s idle timeout of AWS ALB; \
         10.0.1.7 (103), 2001:db8::1 (50 to 60) of 163 described"
    );
    assert_eq!(
        tell::closed(&incident),
        "incident 1795225402-1 closed: refused (connect_failed) of gunicorn.service, server, \
         port 8000, 163 resets in 12.0s, 20 connections meanwhile; gunicorn.service was not \
         listening for 2.1s: 57 resets in between"
    );
    incident.workload = "a\nb\u{1b}[31m".into();
    incident.described = 0;
    for line in [tell::opened(&incident), tell::closed(&incident)] {
        assert!(!line.contains(['\n', '\u{1b}']), "{line}");
    }
}

#[test]
fn a_human_reads_a_page() {
    let style = Style {
        color: false,
        zone: TimeZone::UTC,
    };
    let mut incident = testing::incident();
    incident.samples.clear();
    assert_eq!(
        tell::page(&incident, &style),
        "2026-11-20 14:32:00 over      refused (connect_failed) of gunicorn.service, server, port 8000: 163 resets in 12.0s, usually 0.01 a second
  meaning      a connection attempt met a port that nobody listens on
  connections  20 meanwhile
  peers        10.0.1.7 (103), 2001:db8::1 (50 to 60) of 163 described
  idle before  60.0s
  hint         matches the 60 s idle timeout of AWS ALB
  restart      gunicorn.service was not listening for 2.1s: 57 resets in between
  fix          start the service
"
    );
    incident.closed = None;
    incident.last = incident.first + SignedDuration::from_millis(500);
    let page = tell::page(&incident, &style);
    assert!(
        page.contains(" open      ") && page.contains(" in 500ms, "),
        "{page}"
    );
}
