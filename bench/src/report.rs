//! A benchmark's figures: a table for people and `bench/results/NAME.json` for programs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
    /// What the figure should reach.
    pub(crate) goal: f64,
    pub(crate) better: Better,
    /// The same figure of other programs in the same run.
    pub(crate) beside: BTreeMap<String, f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Better {
    Higher,
    Lower,
}

impl Figure {
    pub(crate) fn higher(name: &str, unit: &'static str, value: f64, goal: f64) -> Self {
        Self { name: name.to_owned(), unit, value, goal, better: Better::Higher, beside: BTreeMap::new() }
    }

    pub(crate) fn lower(name: &str, unit: &'static str, value: f64, goal: f64) -> Self {
        Self { better: Better::Lower, ..Self::higher(name, unit, value, goal) }
    }

    pub(crate) fn beside(mut self, peer: &str, value: f64) -> Self {
        self.beside.insert(peer.to_owned(), value);
        self
    }

    pub(crate) fn reached(&self) -> bool {
        match self.better {
            Better::Higher => self.value >= self.goal,
            Better::Lower => self.value <= self.goal,
        }
    }
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    machine: String,
    commit: String,
    figures: &'a [Figure],
}

/// Writes `bench/results/NAME.json` below `root` and returns the same as a table.
pub(crate) fn publish(root: &Path, name: &str, figures: &[Figure]) -> anyhow::Result<String> {
    let report = Report { machine: machine()?, commit: commit(root)?, figures };
    let folder = root.join("bench/results");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{name}.json"));
    std::fs::write(&path, serde_json::to_vec_pretty(&report)?).with_context(|| path.display().to_string())?;
    Ok(table(name, figures))
}

fn table(name: &str, figures: &[Figure]) -> String {
    use std::fmt::Write as _;
    let mut text = format!("{name}\n{:<46} {:>12} {:>12} {:>8}  beside\n", "figure", "value", "goal", "ratio");
    for figure in figures {
        let verdict = if figure.reached() { "" } else { "  MISSED" };
        let beside: Vec<String> = figure
            .beside
            .iter()
            .map(|(peer, value)| format!("{peer} {value:.2} (x{:.2})", figure.value / value))
            .collect();
        let label = format!("{} [{}]", figure.name, figure.unit);
        let ratio = figure.value / figure.goal;
        let _ = writeln!(
            text,
            "{label:<46} {:>12.2} {:>12.2} {ratio:>8.2}  {}{verdict}",
            figure.value,
            figure.goal,
            beside.join(", ")
        );
    }
    text
}

fn machine() -> anyhow::Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = std::thread::available_parallelism()?;
    Ok(format!("{cores} x {}", model.trim_start_matches([' ', '\t', ':'])))
}

fn commit(root: &Path) -> anyhow::Result<String> {
    let output =
        std::process::Command::new("git").arg("-C").arg(root).args(["rev-parse", "--short", "HEAD"]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_missed_goal_is_named_in_either_direction() {
        let text = super::table(
            "x",
            &[super::Figure::higher("rate", "1/s", 10.0, 20.0), super::Figure::lower("p50", "ms", 3.0, 2.0)],
        );
        assert_eq!(text.matches("MISSED").count(), 2, "{text}");
        let text = super::table(
            "x",
            &[super::Figure::higher("rate", "1/s", 20.0, 20.0), super::Figure::lower("p50", "ms", 1.0, 2.0)],
        );
        assert_eq!(text.matches("MISSED").count(), 0, "{text}");
    }

    #[test]
    fn peers_stand_beside_with_their_ratio() {
        let text = super::table("x", &[super::Figure::higher("rate", "1/s", 30.0, 20.0).beside("direct", 60.0)]);
        assert!(text.contains("direct 60.00 (x0.50)"), "{text}");
    }
}
