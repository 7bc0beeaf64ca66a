//! The ending as pictures: bars over time, and the record line by line.

use phasegate_clock::Timestamp;
use phasegate_proto::instance::v1::{AuditEntry, PhaseTimeline};

/// Columns of a name.
const NAME: usize = 26;

/// Phases and tasks as bars from the first start to the last end, `width` columns wide.
pub(super) fn bars(phases: &[PhaseTimeline], width: usize) -> Vec<String> {
    let time = |time: &Option<prost_types::Timestamp>| time.as_ref().and_then(Timestamp::from_proto);
    let starts = phases.iter().filter_map(|phase| time(&phase.started_at));
    let ends = phases.iter().filter_map(|phase| time(&phase.completed_at));
    let (Some(first), Some(last)) = (starts.min(), ends.max()) else { return Vec::new() };
    let scale = Scale { first, last, columns: width.saturating_sub(NAME + 12).max(10) };
    let mut lines = Vec::new();
    for phase in phases {
        lines.push(scale.line(&phase.name, '█', time(&phase.started_at), time(&phase.completed_at)));
        for task in &phase.tasks {
            let name = format!("  {}", task.name);
            lines.push(scale.line(&name, '▒', time(&task.started_at), time(&task.completed_at)));
        }
    }
    lines
}

/// One line of the record.
pub(super) fn entry(entry: &AuditEntry) -> String {
    let at = entry.timestamp.as_ref().and_then(Timestamp::from_proto).unwrap_or_default().to_string();
    let actor = entry.actor.as_ref();
    let who = actor.map_or("", |actor| actor.id.as_str());
    let behalf = actor.map_or("", |actor| actor.on_behalf_of.as_str());
    let behalf = if behalf.is_empty() { String::new() } else { format!(" for {behalf}") };
    let hash = entry.hash.get(..8).unwrap_or_default();
    format!(
        "{:>3}  {}  {:<16} {:<24} {who}{behalf}  {hash}",
        entry.sequence,
        at.get(11..23).unwrap_or_default(),
        entry.r#type,
        entry.action
    )
}

struct Scale {
    first: Timestamp,
    last: Timestamp,
    columns: usize,
}

impl Scale {
    fn line(&self, name: &str, ink: char, start: Option<Timestamp>, end: Option<Timestamp>) -> String {
        let name: String = name.chars().take(NAME).collect();
        let (Some(start), Some(end)) = (start, end) else { return format!("{name:<NAME$}") };
        // Whatever happened has a column, at the very end, too.
        let from = self.column(start).min(self.columns - 1);
        let to = self.column(end).max(from + 1);
        let bar: String =
            (0..self.columns).map(|column| if (from..to).contains(&column) { ink } else { '·' }).collect();
        format!("{name:<NAME$} {bar} {:>6.1} s", end.duration_since(start).as_secs_f64())
    }

    fn column(&self, time: Timestamp) -> usize {
        let whole = self.last.duration_since(self.first).as_micros().max(1);
        let part = time.duration_since(self.first).as_micros();
        usize::try_from(part * (self.columns as u128) / whole).unwrap_or(0).min(self.columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_show_who_came_when() {
        let at = |second: i64| Some(Timestamp::from_micros(second * 1_000_000).to_proto());
        let phase = |name: &str, start, end| PhaseTimeline {
            name: name.to_owned(),
            started_at: at(start),
            completed_at: at(end),
            ..PhaseTimeline::default()
        };
        let lines = bars(&[phase("Discovery", 0, 5), phase("Configuration", 5, 10)], NAME + 12 + 10);
        assert_eq!(lines[0].trim_end(), format!("{:<NAME$} █████·····    5.0 s", "Discovery"));
        assert_eq!(lines[1].trim_end(), format!("{:<NAME$} ·····█████    5.0 s", "Configuration"));
        assert!(bars(&[], 80).is_empty());
    }
}
