//! How far an instance is and when it may end, from the ranges that its author wrote. Phases run one after another, so
//! what is left is their sum, and the spread of a sum is smaller than the sum of the spreads.

use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_process as process;
use phasegate_process::{Definition, Estimate};

use super::instance::{Instance, Phase, Status};
use super::work::current_phase;

/// Nine out of ten values of a normal distribution are below its mean plus so many standard deviations.
const P90_DEVIATIONS: f64 = 1.281_551_565_5;

/// When something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// In the middle of what is likely.
    pub p50: Timestamp,
    /// Nine times out of ten not after this.
    pub p90: Timestamp,
}

/// Start and end of a phase, as far as they can be told beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Planned {
    /// Absent once it has started.
    pub(super) start: Option<Timestamp>,
    /// Absent once it has ended.
    pub(super) end: Option<Timestamp>,
}

/// 0 to 100: the share of the work that is done, weighted by estimated duration. Only an instance that is completed is
/// at 100.
pub(super) fn progress_percent(definition: &Definition, instance: &Instance) -> u32 {
    if instance.status == Status::Completed {
        return 100;
    }
    let weights = definition.phases.iter().map(|phase| weight(definition, phase));
    let (mut total, mut done) = (0.0, 0.0);
    for (phase, weight) in definition.phases.iter().zip(weights) {
        total += weight;
        if let Some(state) = instance.phases.get(phase.id.as_str()) {
            done += weight * share(instance, phase, state);
        }
    }
    let percent = if total > 0.0 { (100.0 * done / total).floor() } else { 0.0 };
    // Between 0 and 99 by construction.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=99")]
    let percent = percent.clamp(0.0, 99.0) as u32;
    percent
}

/// How much of a phase is done: each task counts one, and so does its review.
fn share(instance: &Instance, phase: &process::Phase, state: &Phase) -> f64 {
    if state.status.is_over() {
        return 1.0;
    }
    let is_done = |task: &&process::Task| {
        instance.tasks.get(task.id.as_str()).is_some_and(|state| state.status.is_done())
    };
    let done = count(phase.tasks.iter().filter(is_done).count());
    let all = count(phase.tasks.len() + usize::from(!phase.required_approvals.is_empty()));
    if all > 0.0 { done / all } else { 0.0 }
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::from(u32::MAX), f64::from)
}

/// The middle of a phase's estimate; the average of the others where it has none, and 1 where none has.
fn weight(definition: &Definition, phase: &process::Phase) -> f64 {
    let middle = |estimate: Estimate| f64::midpoint(estimate.low.as_secs_f64(), estimate.high.as_secs_f64());
    if let Some(estimate) = phase.estimate {
        return middle(estimate);
    }
    let known: Vec<f64> = definition.phases.iter().filter_map(|phase| phase.estimate.map(middle)).collect();
    if known.is_empty() { 1.0 } else { known.iter().sum::<f64>() / count(known.len()) }
}

/// When the instance may end; nothing once it has, or where its author estimated nothing.
pub(super) fn completion(definition: &Definition, instance: &Instance, now: Timestamp) -> Option<Expected> {
    let left = remaining(definition, instance, now)?;
    let mean: f64 = left.iter().map(|range| range.mean).sum();
    let variance: f64 = left.iter().map(|range| range.variance).sum();
    let late = mean + P90_DEVIATIONS * variance.sqrt();
    Some(Expected { p50: now + seconds(mean), p90: now + seconds(late) })
}

/// When each phase may start and end, in the middle of what is likely.
pub(super) fn plan(definition: &Definition, instance: &Instance, now: Timestamp) -> Vec<Planned> {
    let nothing = Planned { start: None, end: None };
    let Some(left) = remaining(definition, instance, now) else {
        return vec![nothing; definition.phases.len()];
    };
    let over = definition.phases.len() - left.len();
    let mut plan = vec![nothing; over];
    let mut from = now;
    for (phase, range) in definition.phases.iter().skip(over).zip(left) {
        let until = from + seconds(range.mean);
        let started = instance.phases.get(phase.id.as_str()).is_some_and(|state| state.started_at.is_some());
        plan.push(Planned { start: (!started).then_some(from), end: Some(until) });
        from = until;
    }
    plan
}

struct Range {
    mean: f64,
    variance: f64,
}

/// What is left of the phases that are not over, in seconds.
fn remaining(definition: &Definition, instance: &Instance, now: Timestamp) -> Option<Vec<Range>> {
    let is_estimated = definition.phases.iter().any(|phase| phase.estimate.is_some());
    if !is_estimated || instance.status.is_terminal() {
        return None;
    }
    let current = current_phase(definition, instance)?;
    let ranges = definition.phases.iter().enumerate().skip(current).map(|(position, phase)| {
        let (low, high) = match phase.estimate {
            Some(estimate) => (estimate.low.as_secs_f64(), estimate.high.as_secs_f64()),
            None => (weight(definition, phase), weight(definition, phase)),
        };
        if position == current { rest_of(instance, phase, low, high, now) } else { uniform(low, high) }
    });
    Some(ranges.collect())
}

/// What is left of the phase that is under way: its estimate for the part of its longest chain of tasks that is not
/// done, less the time that has passed since it last moved.
fn rest_of(instance: &Instance, phase: &process::Phase, low: f64, high: f64, now: Timestamp) -> Range {
    let Some(started) = instance.phases.get(phase.id.as_str()).and_then(|state| state.started_at) else {
        return uniform(low, high);
    };
    let (left, all) = (chain(instance, phase, false), chain(instance, phase, true));
    let part = if all > 0.0 { left / all } else { 1.0 };
    let ends = phase.tasks.iter().filter_map(|task| instance.tasks.get(task.id.as_str())?.ended_at);
    let moved = ends.max().map_or(started, |end| end.max(started));
    let passed = now.duration_since(moved).as_secs_f64();
    let (low, high) = (low * part, high * part);
    uniform((low - passed).max(0.0), (high - passed).max(0.0))
}

/// Tasks in the longest chain of dependencies inside a phase: all of them, or those that are not done.
fn chain(instance: &Instance, phase: &process::Phase, all: bool) -> f64 {
    let mut longest = std::collections::BTreeMap::<&str, usize>::new();
    // Dependencies may be written in any order, so as many passes as tasks settle every chain; mostly one does.
    for _ in 0..phase.tasks.len() {
        let mut changed = false;
        for task in &phase.tasks {
            let before = task.dependencies.iter().filter_map(|id| longest.get(id.as_str())).max().copied();
            let is_done = instance.tasks.get(task.id.as_str()).is_some_and(|state| state.status.is_done());
            let length = before.unwrap_or(0) + usize::from(all || !is_done);
            changed |= longest.insert(&task.id, length) != Some(length);
        }
        if !changed {
            break;
        }
    }
    count(longest.values().copied().max().unwrap_or(0))
}

fn uniform(low: f64, high: f64) -> Range {
    Range { mean: f64::midpoint(low, high), variance: (high - low).powi(2) / 12.0 }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default()
}
