//! Phases and tasks as bars over time: full where time has passed, light where it is planned.

use std::fmt::Write as _;

use phasegate_clock::Timestamp;
use phasegate_proto::instance::v1::PhaseTimeline;

use super::show::{phase_mark, task_mark};
use crate::cli::moment;
use crate::cli::output::{Ink, Style, clean, style_of, word};

/// Columns behind the bars.
const TAIL: usize = 9;

/// One line of the picture.
struct Bar {
    mark: char,
    name: String,
    state: String,
    is_task: bool,
    start: Option<Timestamp>,
    end: Option<Timestamp>,
    planned: Option<(Timestamp, Timestamp)>,
}

/// Draws the picture, `columns` wide.
pub(super) fn draw(phases: &[PhaseTimeline], now: Timestamp, columns: usize, ink: Ink) -> String {
    let bars = bars(phases);
    let starts = bars.iter().filter_map(|bar| bar.start.or(bar.planned.map(|(start, _)| start)));
    let ends = bars.iter().flat_map(|bar| [bar.end, bar.planned.map(|(_, end)| end)]).flatten();
    let Some(first) = starts.min() else { return "Nothing has begun.".to_owned() };
    let runs = bars.iter().any(|bar| bar.start.is_some() && bar.end.is_none());
    let last = ends.chain(runs.then_some(now)).max().unwrap_or(now);
    let names = bars.iter().map(|bar| bar.name.chars().count()).max().unwrap_or_default() + 3;
    let scale = Scale { first, last, width: columns.saturating_sub(names + TAIL + 2).max(20) };

    let mut text = String::new();
    // Writing to a text does not fail.
    let _ = writeln!(text, "{:names$}{}", "", ink.paint(Style::Faint, &scale.ruler()));
    for bar in &bars {
        let name = format!("{} {:<width$}", bar.mark, bar.name, width = names - 2);
        let style = if bar.is_task { Style::Plain } else { Style::Strong };
        let took = bar.start.map(|start| moment::length(bar.end.unwrap_or(now).duration_since(start)));
        let drawn = ink.paint(style_of(&bar.state), &scale.bar(bar, now));
        let line = format!("{}{drawn} {:>TAIL$}", ink.paint(style, &name), took.unwrap_or_default());
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn bars(phases: &[PhaseTimeline]) -> Vec<Bar> {
    let time = |time: &Option<prost_types::Timestamp>| time.as_ref().and_then(Timestamp::from_proto);
    let mut bars = Vec::new();
    for phase in phases {
        let start = time(&phase.planned_start_at).or(time(&phase.started_at));
        bars.push(Bar {
            mark: phase_mark(phase.status()),
            name: clean(&phase.name),
            state: word(phase.status().as_str_name(), "PHASE_STATUS_"),
            is_task: false,
            start: time(&phase.started_at),
            end: time(&phase.completed_at),
            planned: start.zip(time(&phase.planned_end_at)),
        });
        for task in &phase.tasks {
            let round = if task.round > 1 { format!(" (round {})", task.round) } else { String::new() };
            bars.push(Bar {
                mark: ' ',
                name: clean(&format!("{} {}{round}", task_mark(task.status()), task.name)),
                state: word(task.status().as_str_name(), "TASK_STATUS_"),
                is_task: true,
                start: time(&task.started_at),
                end: time(&task.completed_at),
                planned: None,
            });
        }
    }
    bars
}

/// Where times stand between the first and the last.
struct Scale {
    first: Timestamp,
    last: Timestamp,
    width: usize,
}

impl Scale {
    fn column(&self, time: Timestamp) -> usize {
        let whole = self.last.duration_since(self.first).as_micros().max(1);
        let part = time.duration_since(self.first).as_micros().min(whole);
        let width = u128::try_from(self.width).unwrap_or_default();
        usize::try_from(part * width / whole).unwrap_or_default().min(self.width)
    }

    /// The columns of a span: at least one, so that what was short still shows.
    fn span(&self, start: Timestamp, end: Timestamp) -> std::ops::Range<usize> {
        let from = self.column(start).min(self.width - 1);
        from..self.column(end).max(from + 1)
    }

    fn bar(&self, bar: &Bar, now: Timestamp) -> String {
        let done = bar.start.map(|start| self.span(start, bar.end.unwrap_or(now)));
        let planned = bar.planned.map(|(start, end)| self.span(start, end));
        let full = if bar.is_task { '▬' } else { '█' };
        (0..self.width)
            .map(|column| {
                if done.as_ref().is_some_and(|span| span.contains(&column)) {
                    full
                } else if planned.as_ref().is_some_and(|span| span.contains(&column)) {
                    '░'
                } else {
                    '·'
                }
            })
            .collect()
    }

    fn ruler(&self) -> String {
        let (first, last) = (self.first.to_proto(), self.last.to_proto());
        let same_day = moment::full(Some(&first)).get(..10) == moment::full(Some(&last)).get(..10);
        let label = |time| if same_day { moment::clock_time(Some(time)) } else { moment::full(Some(time)) };
        let (left, right) = (label(&first), label(&last));
        let gap = self.width.saturating_sub(left.len() + right.len()).max(1);
        format!("{left}{}{right}", " ".repeat(gap))
    }
}

#[cfg(test)]
mod tests {
    use phasegate_proto::instance::v1::{PhaseStatus, TaskStatus, TaskTimeline};

    use super::*;

    fn at(time: &str) -> Timestamp {
        format!("2025-11-13T{time}Z").parse().unwrap()
    }

    fn proto(time: &str) -> Option<prost_types::Timestamp> {
        (!time.is_empty()).then(|| at(time).to_proto())
    }

    fn phase(name: &str, status: PhaseStatus, times: [&str; 4], tasks: Vec<TaskTimeline>) -> PhaseTimeline {
        PhaseTimeline {
            name: name.to_owned(),
            status: status.into(),
            started_at: proto(times[0]),
            completed_at: proto(times[1]),
            planned_start_at: proto(times[2]),
            planned_end_at: proto(times[3]),
            tasks,
            ..PhaseTimeline::default()
        }
    }

    fn task(name: &str, status: TaskStatus, start: &str, end: &str) -> TaskTimeline {
        TaskTimeline {
            name: name.to_owned(),
            status: status.into(),
            started_at: proto(start),
            completed_at: proto(end),
            round: 1,
            ..TaskTimeline::default()
        }
    }

    #[test]
    fn bars_show_what_was_and_what_is_planned() {
        let phases = [
            phase(
                "Discovery",
                PhaseStatus::Completed,
                ["10:00:00", "10:10:00", "", ""],
                vec![
                    task("Gather", TaskStatus::Completed, "10:00:00", "10:05:00"),
                    task("Plan", TaskStatus::Completed, "10:05:00", "10:10:00"),
                ],
            ),
            phase(
                "Build",
                PhaseStatus::Active,
                ["10:10:00", "", "", "10:30:00"],
                vec![task("Set up", TaskStatus::Running, "10:10:00", "")],
            ),
            phase("Go live", PhaseStatus::Pending, ["", "", "10:30:00", "10:40:00"], Vec::new()),
        ];
        // A backslash would swallow the spaces of the first line.
        let expected = "            10:00:00                        10:40:00
✓ Discovery ██████████······························    10 min
  ✓ Gather  ▬▬▬▬▬···································     5 min
  ✓ Plan    ·····▬▬▬▬▬······························     5 min
▶ Build     ··········██████████░░░░░░░░░░··········    10 min
  ● Set up  ··········▬▬▬▬▬▬▬▬▬▬····················    10 min
○ Go live   ······························░░░░░░░░░░
";
        let drawn = draw(&phases, at("10:20:00"), 40 + 12 + TAIL + 2, Ink(false));
        assert_eq!(drawn, expected);
    }

    #[test]
    fn nothing_is_drawn_of_what_has_not_begun() {
        let phases = [phase("Discovery", PhaseStatus::Gated, ["", "", "", ""], Vec::new())];
        assert_eq!(draw(&phases, at("10:00:00"), 80, Ink(false)), "Nothing has begun.");
    }

    #[test]
    fn a_moment_still_shows() {
        let phases = [phase("Short", PhaseStatus::Completed, ["10:00:00", "10:00:00", "", ""], Vec::new())];
        assert!(draw(&phases, at("10:00:00"), 60, Ink(false)).contains('█'));
    }
}
