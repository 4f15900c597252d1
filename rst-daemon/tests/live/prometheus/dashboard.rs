//! The Grafana dashboard: every query of it gives data.

use serde_json::Value;

use super::server::Prometheus;
use crate::kernel::{Kernel, Limit};

/// Metrics that not every kernel has.
const LIMITS: [(&str, Limit); 3] = [
    ("rst_timeouts_total", Limit::Timeouts),
    ("rst_ignored_resets_total", Limit::Ignored),
    ("rst_kernel_reason_total", Limit::Reason),
];

/// What is 0 where all is well.
const ZERO: [&str; 7] = [
    "rst_broken_connections_per_connections",
    "rst_unaccounted_resets",
    "rst_missed_resets_total",
    "rst_credited_resets_total",
    "rst_probe_up",
    "rst_shed_level",
    "rst_store_up",
];

/// Runs every query. Each has to give a series, and one above 0 where it is not 0 in a
/// healthy daemon.
pub(super) fn check(test: &str, prometheus: &Prometheus, kernel: &Kernel) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/grafana/rst.json");
    let dashboard = std::fs::read_to_string(path).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let queries = queries(&dashboard);
    let mut problems = Vec::new();
    for (title, expression) in &queries {
        let limit = LIMITS
            .iter()
            .find(|(metric, _)| expression.contains(metric));
        if limit.is_some_and(|(_, limit)| !kernel.shows_in(test, *limit)) {
            continue;
        }
        let series = prometheus.history(&substitute(expression));
        let mut values = series.iter().flatten().filter(|value| !value.is_nan());
        let zero = ZERO.iter().any(|metric| expression.contains(metric));
        if zero && values.next().is_none() {
            problems.push(format!("{title}: no data: {expression}"));
        } else if !zero && !values.any(|value| *value > 0.0) {
            problems.push(format!("{title}: nothing above 0: {expression}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    println!("{} queries of the dashboard give data", queries.len());
}

/// Title and expression of each query: of the panels, the annotations and the variables.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let mut queries = Vec::new();
    for panel in list(&dashboard["panels"]) {
        let title = text(&panel["title"]);
        if panel["type"] == "row" {
            continue;
        }
        let targets = list(&panel["targets"]);
        assert!(!targets.is_empty(), "{title} asks nothing");
        queries.extend(
            targets
                .iter()
                .map(|target| (title.clone(), text(&target["expr"]))),
        );
    }
    for annotation in list(&dashboard["annotations"]["list"]) {
        queries.push((text(&annotation["name"]), text(&annotation["expr"])));
    }
    for variable in list(&dashboard["templating"]["list"]) {
        if variable["type"] != "query" {
            continue;
        }
        // Those values of a label that the series have.
        let query = text(&variable["query"]["query"]);
        let values = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')'))
            .and_then(|rest| rest.rsplit_once(", "));
        let (selector, label) = values.expect("label_values(selector, label)");
        let expression = format!("count by ({label}) ({selector})");
        queries.push((text(&variable["name"]), expression));
    }
    queries
}

/// Puts in what Grafana would: all hosts and services, and four scrapes.
fn substitute(expression: &str) -> String {
    let mut expression = expression.replace("$__rate_interval", "4s");
    for variable in ["$job", "$instance", "$workload"] {
        expression = expression.replace(variable, ".*");
    }
    assert!(!expression.contains('$'), "{expression}");
    expression
}
