//! The MID Server's figures as Prometheus text (exposition format 0.0.4), for the admin socket and, where configured,
//! a listener on loopback. No token, no secret; a bounded number of lines.

use std::fmt::Write as _;

use midward_oauth::TokenMetrics;
use midward_telemetry::SpanCounts;

use crate::engine::Engine;

/// Longest label value, in characters.
const MAX_LABEL: usize = 160;

/// Everything as text.
pub(crate) fn page(engine: &Engine, max_profiles: usize) -> String {
    text(&engine.tokens.metrics(max_profiles), engine.tracer.counts())
}

fn text(metrics: &TokenMetrics, spans: Option<SpanCounts>) -> String {
    let counts = &metrics.counts;
    let mut page = Page::default();
    page.family("midward_token_lookups_total", "counter", "Calls that needed a token, by where it came from");
    for (result, count) in [("cached", counts.hits), ("waited", counts.waits), ("refused", counts.refusals)] {
        page.line("midward_token_lookups_total", &[("result", result)], count);
    }
    page.family(
        "midward_token_fetches_total",
        "counter",
        "Fetches that ended, by result: a token, or the code of the failure",
    );
    page.line("midward_token_fetches_total", &[("result", "token")], counts.mints);
    for (code, count) in &metrics.failures {
        page.line("midward_token_fetches_total", &[("result", code)], *count);
    }
    page.family("midward_token_rejections_total", "counter", "Tokens that were dropped because an API refused them");
    page.line("midward_token_rejections_total", &[], counts.rejections);
    page.family("midward_token_profiles", "gauge", "Profiles by state");
    for (state, count) in &metrics.states {
        page.line("midward_token_profiles", &[("state", state)], count);
    }
    servers(&mut page, metrics);
    page.family(
        "midward_token_expiry_seconds",
        "gauge",
        "Time until the token ends; 0 without one. Those in use that end first",
    );
    for profile in &metrics.profiles {
        page.line("midward_token_expiry_seconds", &profile_labels(profile), profile.expires_in.as_secs());
    }
    if let Some(SpanCounts { exported, dropped, refused }) = spans {
        let name = "midward_trace_spans_total";
        page.family(name, "counter", "Spans by what became of them: no room, or not taken by the collector");
        for (result, count) in [("exported", exported), ("dropped", dropped), ("refused", refused)] {
            page.line(name, &[("result", result)], count);
        }
    }
    page.0
}

fn servers(page: &mut Page, metrics: &TokenMetrics) {
    type Value = fn(&midward_oauth::ServerMetrics) -> Option<f64>;
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let families: [(&str, &str, Value); 6] = [
        (
            "midward_token_server_survives_seconds",
            "How long every call would still get a token if the server died now; absent when no token of it is in use",
            |server| server.survives.map(|time| time.as_secs() as f64),
        ),
        ("midward_token_server_profiles_in_use", "Profiles that calls need", |server| Some(server.in_use as f64)),
        ("midward_token_server_requests_running", "Token requests that run", |server| {
            Some(server.queue.running as f64)
        }),
        ("midward_token_server_credentials_waiting", "Credentials that take turns", |server| {
            Some(server.queue.clients_waiting as f64)
        }),
        ("midward_token_server_rest_seconds", "For how long the server wants to be left alone", |server| {
            Some(server.queue.rests_for.as_secs_f64().ceil())
        }),
        ("midward_token_server_circuits_open", "Credentials whose secret the server refused", |server| {
            Some(server.circuits_open as f64)
        }),
    ];
    for (name, help, value) in families {
        page.family(name, "gauge", help);
        for server in &metrics.servers {
            if let Some(value) = value(server) {
                page.line(name, &[("server", &server.queue.server)], value);
            }
        }
    }
    let name = "midward_token_server_requests_waiting";
    page.family(
        name,
        "gauge",
        "Token requests that wait for a turn: for a call, or to refresh a token that is still good",
    );
    for server in &metrics.servers {
        let queue = &server.queue;
        page.line(name, &[("server", &queue.server), ("for", "call")], queue.waiting);
        page.line(name, &[("server", &queue.server), ("for", "refresh")], queue.refreshes_waiting);
    }
}

fn profile_labels(profile: &midward_oauth::ProfileMetrics) -> [(&'static str, &str); 3] {
    [("profile", &profile.profile), ("credential_id", &profile.credential_id), ("server", &profile.server)]
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}.\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if index == 0 { '{' } else { ',' });
            for letter in text.chars().take(MAX_LABEL) {
                match letter {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    control if control.is_control() => self.0.push('?'),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use midward_oauth::{ProfileMetrics, ServerMetrics, ServerStatus, TokenCounts};

    use super::*;

    fn metrics() -> TokenMetrics {
        TokenMetrics {
            counts: TokenCounts { hits: 7, waits: 2, mints: 3, ..TokenCounts::default() },
            failures: BTreeMap::from([("invalid_client".to_owned(), 2)]),
            states: BTreeMap::from([("valid", 1)]),
            servers: vec![ServerMetrics {
                queue: ServerStatus {
                    server: "https://login.example.com".to_owned(),
                    running: 8,
                    waiting: 4,
                    refreshes_waiting: 1,
                    clients_waiting: 3,
                    rests_for: Duration::ZERO,
                },
                in_use: 5,
                survives: Some(Duration::from_secs(1234)),
                circuits_open: 1,
            }],
            profiles: vec![ProfileMetrics {
                profile: "00ff".to_owned(),
                instance: "i".to_owned(),
                credential_id: "a\"b\\c\nd\u{1b}e".to_owned(),
                server: "https://login.example.com".to_owned(),
                state: "valid",
                expires_in: Duration::from_secs(1234),
                in_use: true,
            }],
        }
    }

    #[test]
    fn the_text_is_what_a_prometheus_reads() {
        let text = text(&metrics(), Some(SpanCounts { exported: 5, dropped: 2, refused: 1 }));
        for line in [
            "midward_token_lookups_total{result=\"cached\"} 7",
            "midward_token_fetches_total{result=\"token\"} 3",
            "midward_token_fetches_total{result=\"invalid_client\"} 2",
            "midward_token_rejections_total 0",
            "midward_trace_spans_total{result=\"dropped\"} 2",
            "midward_token_server_survives_seconds{server=\"https://login.example.com\"} 1234",
            "midward_token_server_requests_waiting{server=\"https://login.example.com\",for=\"call\"} 4",
            "midward_token_server_circuits_open{server=\"https://login.example.com\"} 1",
            "midward_token_expiry_seconds{profile=\"00ff\",credential_id=\"a\\\"b\\\\c\\nd?e\",\
             server=\"https://login.example.com\"} 1234",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nin\n{text}");
        }
        // Each family is announced once, before its lines, and no series is there twice.
        let mut announced = std::collections::HashSet::new();
        let mut series = std::collections::HashSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(announced.insert(rest.split(' ').next().expect("a name")), "{line}");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().expect("a name");
                assert!(announced.contains(name), "{line}");
                assert!(series.insert(line.rsplit_once(' ').expect("a value").0), "{line}");
            }
        }
    }

    #[test]
    fn a_label_is_never_longer_than_its_limit() {
        let mut metrics = metrics();
        metrics.profiles[0].credential_id = "x".repeat(10_000);
        assert!(text(&metrics, None).lines().all(|line| line.len() < 600));
    }
}
