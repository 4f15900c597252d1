//! The settings, as a file and as flags.

use super::*;
use crate::testing::TempDir;

const KEYS: [&str; 22] = [
    "listen",
    "web_config",
    "tcp_details",
    "socket",
    "details_per_second",
    "ring_bytes",
    "max_series",
    "max_ports",
    "max_workloads",
    "idle_ms",
    "multiplexed_ports",
    "tracked_sockets",
    "closed_connections",
    "max_cpu_percent",
    "max_memory_mb",
    "incident_min_resets",
    "incident_warmup_seconds",
    "incident_close_seconds",
    "data_dir",
    "pin_dir",
    "store_max_mb",
    "store_max_age",
];

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("rst.toml")).map_err(|error| error.to_string())
}

#[test]
fn the_example_holds_every_key_at_its_default() {
    assert_eq!(parse(EXAMPLE), Ok(Config::default()));
    let document = DeTable::parse(EXAMPLE).unwrap();
    assert_eq!(document.get_ref().len(), KEYS.len());
    for key in KEYS {
        assert!(document.get_ref().contains_key(key), "{key} is missing");
    }
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(parse(""), Ok(Config::default()));
    assert_eq!(parse("# nothing\n"), Ok(Config::default()));
}

#[test]
fn every_key_is_taken_over() {
    let text = "listen = '[::1]:9'\nweb_config = '/w'\ntcp_details = true\n\
                socket = '/s'\ndetails_per_second = 0\n\
                ring_bytes = 0x1000\nmax_series = 1_000_000\nmax_ports = 1\n\
                max_workloads = 2\nidle_ms = 10\n\
                multiplexed_ports = [1, 65535]\ntracked_sockets = 100\n\
                closed_connections = 64\nmax_cpu_percent = 3\nmax_memory_mb = 100\n\
                incident_min_resets = 1\nincident_warmup_seconds = 2\n\
                incident_close_seconds = 86400\n\
                data_dir = '/d'\npin_dir = '/p'\nstore_max_mb = 16\nstore_max_age = '1m'\n";
    let expected = Config {
        listen: "[::1]:9".parse().unwrap(),
        web_config: Some("/w".into()),
        tcp_details: true,
        socket: "/s".into(),
        details_per_second: 0,
        ring_bytes: 4096,
        max_series: 1_000_000,
        max_ports: 1,
        max_workloads: 2,
        idle_ms: 10,
        multiplexed_ports: vec![1, 65535],
        tracked_sockets: 100,
        closed_connections: 64,
        max_cpu_percent: 3,
        max_memory_mb: 100,
        incident_min_resets: 1,
        incident_warmup_seconds: 2,
        incident_close_seconds: 86_400,
        data_dir: "/d".into(),
        pin_dir: Some("/p".into()),
        store_max_mb: 16,
        store_max_age: Duration::from_secs(60),
    };
    assert_eq!(parse(text), Ok(expected));
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    assert_eq!(
        parse("\nlisten_on = 1\n[\"a\\u001b\"]\nb = 1\n").unwrap_err(),
        "rst.toml:2: unknown key `listen_on`; remove it, or see `rst config example` for the \
         keys there are\n\
         rst.toml:3: unknown key `a\\u{1b}`; remove it, or see `rst config example` for the \
         keys there are"
    );
}

#[test]
fn all_bad_values_are_reported_at_once() {
    let text = "listen = \"localhost\"\nsocket = \"rst.sock\"\ndetails_per_second = -1\n\
                ring_bytes = 5000\nmax_series = 63\nmystery = true\nidle_ms = 9\n\
                multiplexed_ports = [443, 0]\n";
    assert_eq!(
        parse(text).unwrap_err(),
        "rst.toml:1: `listen` is \"localhost\"; write an IP address and a port, such as \
         \"127.0.0.1:10004\" or \"[::1]:10004\"\n\
         rst.toml:2: `socket` is \"rst.sock\"; write an absolute path, such as \
         \"/run/rst/rst.sock\"\n\
         rst.toml:3: `details_per_second` is -1; write a number from 0 to 4294967295\n\
         rst.toml:4: `ring_bytes` is 5000; write a power of two, such as 4096 or 8192\n\
         rst.toml:5: `max_series` is 63; write a number from 64 to 1000000\n\
         rst.toml:6: unknown key `mystery`; remove it, or see `rst config example` for the \
         keys there are\n\
         rst.toml:7: `idle_ms` is 9; write a number from 10 to 86400000\n\
         rst.toml:8: `multiplexed_ports` is 0; write a number from 1 to 65535"
    );
}

#[test]
fn wrong_types_and_sizes_are_reported() {
    let long = format!("socket = \"/{}\"", "x".repeat(107));
    for (text, part) in [
        ("listen = 10004", "of type integer; write a string"),
        (
            "max_series = \"64\"",
            "of type string; write a whole number",
        ),
        ("max_series = 1e3", "of type float; write a whole number"),
        (
            "max_series = 99999999999999999999999999999999999999999999",
            "write a number from",
        ),
        ("ring_bytes = 2147483648", "from 4096 to 1073741824"),
        ("ring_bytes = 4095", "from 4096 to 1073741824"),
        (&long, "a path of 108 bytes"),
        (
            "data_dir = 'd'",
            "write an absolute path, such as \"/var/lib/rst\"",
        ),
        (
            "store_max_mb = 15",
            "write 0 for no store, or a number from 16",
        ),
        ("store_max_age = 30", "of type integer; write a string"),
        (
            "store_max_age = '59s'",
            "is \"59s\"; write a duration of a minute",
        ),
        ("store_max_age = '30'", "such as \"12h\" or \"30d\""),
    ] {
        let message = parse(text).unwrap_err();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn syntax_errors_stand_beside_the_others() {
    let message = parse("max_series = 1\nlisten = \nlisten = 3\nmystery = 1\n").unwrap_err();
    let lines: Vec<&str> = message
        .lines()
        .map(|line| line.split(' ').next().unwrap_or_default())
        .collect();
    assert_eq!(
        lines,
        ["rst.toml:1:", "rst.toml:2:", "rst.toml:3:", "rst.toml:4:"],
        "{message}"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_with_its_name() {
    let dir = TempDir::new();
    let directory = dir.join("");
    for path in [directory, dir.join("none.toml")] {
        let message = Config::load(Some(&path)).unwrap_err().to_string();
        let start = format!("can't read the configuration file {}: ", path.display());
        assert!(message.starts_with(&start), "{message}");
    }
}

#[test]
fn the_fallback_may_be_absent_but_not_wrong() {
    let dir = TempDir::new();
    let path = dir.join("rst.toml");
    assert_eq!(
        Config::load_or_default(None, &path).unwrap(),
        Config::default()
    );
    std::fs::write(&path, "max_series = 64").unwrap();
    assert_eq!(Config::load_or_default(None, &path).unwrap().max_series, 64);
    std::fs::write(&path, "max_series = 6").unwrap();
    assert!(Config::load_or_default(None, &path).is_err());
}

#[test]
fn flags_win() {
    let flags = Overrides {
        listen: Some("0.0.0.0:1".parse().unwrap()),
        web_config: Some("w".into()),
        socket: None,
        details_per_second: Some(7),
        data_dir: Some("d".into()),
        pin_dir: Some("p".into()),
    };
    let expected = Config {
        listen: "0.0.0.0:1".parse().unwrap(),
        web_config: Some("w".into()),
        details_per_second: 7,
        data_dir: "d".into(),
        pin_dir: Some("p".into()),
        ..Config::default()
    };
    assert_eq!(Config::default().with(flags), expected);
    assert_eq!(
        Config::default().with(Overrides::default()),
        Config::default()
    );
}
