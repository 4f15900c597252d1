//! The rules for Prometheus: what promtool says of them, and that each alert is described
//! and tested.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::Command;

/// Both files of rules.
const RULES: [&str; 2] = ["rst.rules.yml", "rst.fleet.rules.yml"];

/// The file of their unit tests.
const TESTS: &str = "rst.rules.test.yml";

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn dist(file: &str) -> String {
    read(&format!("dist/prometheus/{file}"))
}

fn rules() -> String {
    RULES.map(dist).concat()
}

/// Runs a tool on files of `dist/prometheus`; where it is not installed the test is
/// reported as skipped.
fn check(test: &str, tool: &str, args: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/prometheus");
    match Command::new(tool).args(args).current_dir(folder).output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            println!("{said}");
            assert!(output.status.success(), "{tool} {}: {said}", args.join(" "));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("SKIPPED: {test}: needs {tool}");
            let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: needs {tool}");
        }
        Err(error) => panic!("{tool}: {error}"),
    }
}

/// What follows a key on its line, in each line that has it.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let lines = text.lines().filter_map(|line| {
        let line = line.trim_start().trim_start_matches(['-', '{', ' ']);
        line.strip_prefix(key)
    });
    lines.map(|value| value.trim().trim_matches('\'')).collect()
}

fn alerts() -> BTreeSet<String> {
    let all = rules();
    let alerts = values(&all, "alert:");
    let names: BTreeSet<_> = alerts.iter().map(ToString::to_string).collect();
    assert_eq!(names.len(), alerts.len(), "two alerts of one name");
    names
}

#[test]
fn promtool_accepts_the_rules() {
    let args = [&["check", "rules", "--lint-fatal"], &RULES[..]].concat();
    check("promtool_accepts_the_rules", "promtool", &args);
}

#[test]
fn rules_fire_and_stay_silent_as_they_should() {
    let test = "rules_fire_and_stay_silent_as_they_should";
    check(test, "promtool", &["test", "rules", TESTS]);
}

#[test]
fn examples_are_valid() {
    let test = "examples_are_valid";
    check(test, "promtool", &["check", "config", "prometheus.yml"]);
    check(test, "amtool", &["check-config", "alertmanager.yml"]);
}

#[test]
fn each_alert_has_its_section_and_no_section_is_left_over() {
    let page = read("docs/alerts.md");
    let sections: BTreeSet<_> = values(&page, "## ")
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(sections, alerts());
}

/// The severity stands in the section too.
#[test]
fn each_alert_says_how_bad_it_is_and_where_to_read_on() {
    let (rules, page) = (rules(), read("docs/alerts.md"));
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap();
        let severity = values(rule, "severity:")[0];
        let section = format!("\n## {name}\n\n**{severity}.** ");
        assert!(page.contains(&section), "docs/alerts.md lacks {section:?}");
        let link = format!("docs/alerts.md#{}", name.to_lowercase());
        assert_eq!(values(rule, "runbook_url:")[0], link, "{name}");
        for text in ["summary:", "description:"] {
            assert_eq!(values(rule, text).len(), 1, "{name}: {text}");
        }
    }
}

/// What is benign or uncertain must not page: a rule that looks at resets says at which.
#[test]
fn each_rule_on_resets_looks_at_proven_losses() {
    for rule in rules().split("- alert: ").skip(1) {
        for counter in rule.split("rst_resets_total{").skip(1) {
            let (matchers, _) = counter.split_once('}').unwrap();
            assert!(matchers.contains("impact="), "{matchers} in {rule}");
            assert!(!matchers.contains("benign") && !matchers.contains("uncertain"));
        }
    }
}

#[test]
fn each_alert_is_tested_to_fire_and_to_stay_silent() {
    let tests = dist(TESTS);
    let (mut fires, mut silent) = (BTreeSet::new(), BTreeSet::new());
    // One after another: the name, and what is expected behind it.
    for test in tests.split("alertname: ").skip(1) {
        let name: String = test
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .collect();
        let one = test.split("- eval_time:").next().unwrap();
        if one.contains("exp_alerts:") {
            fires.insert(name);
        } else {
            silent.insert(name);
        }
    }
    let alerts = alerts();
    assert_eq!(fires, alerts, "tested to fire");
    assert_eq!(silent, alerts, "tested to stay silent");
}
