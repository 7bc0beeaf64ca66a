//! What must be done before what.

use std::collections::{BTreeMap, BTreeSet};

use super::Checker;
use crate::definition::{Definition, Phase};
use crate::issue::{Path, did_you_mean};

/// Most cycles that are printed; each is a sentence, and breaking one often breaks others.
const MAX_CYCLES: usize = 10;

/// Where a task stands.
#[derive(Clone, Copy)]
struct Place {
    /// Position of its phase among the sorted ones.
    rank: usize,
    /// Where its phase was written.
    phase: usize,
    /// Where it was written in the phase.
    task: usize,
}

impl Checker<'_> {
    /// Checks the dependencies as written, and completes them: in a sequential phase each task waits for the one before.
    pub(super) fn dependencies(&mut self, path: &Path, phases: &mut [(usize, Phase)]) {
        let places = places(phases);
        for (rank, (index, phase)) in phases.iter().enumerate() {
            for (at, task) in phase.tasks.iter().enumerate() {
                let path = path.at(index).at("tasks").at(at).at("dependencies");
                self.written(&path, rank, &task.id, &task.dependencies, &places);
            }
        }
        for (_, phase) in phases.iter_mut() {
            complete(phase, &places);
        }
        self.cycles(path, phases, &places);
    }

    fn written(
        &mut self,
        path: &Path,
        rank: usize,
        task: &str,
        dependencies: &[String],
        places: &BTreeMap<String, Place>,
    ) {
        let mut seen = BTreeSet::new();
        for (index, name) in dependencies.iter().enumerate() {
            let path = path.at(index);
            if !seen.insert(name) {
                self.report.warning(
                    &path,
                    "DEPENDENCY_REPEATED",
                    format!("`{name}` stands here twice; remove one"),
                );
            }
            match places.get(name) {
                None => {
                    let alike = did_you_mean(name, places.keys().map(String::as_str));
                    let message = format!("`{name}` is no task of the definition{alike}");
                    self.report.fault(&path, "DEPENDENCY_UNKNOWN", message);
                }
                Some(place) if place.rank > rank => {
                    let message = format!(
                        "`{name}` belongs to a later phase, so `{task}` could never begin; move one of them or remove the dependency"
                    );
                    self.report.fault(&path, "DEPENDENCY_LATER", message);
                }
                Some(_) => {}
            }
        }
    }

    /// Prints each cycle, where it was written.
    fn cycles(&mut self, path: &Path, phases: &[(usize, Phase)], places: &BTreeMap<String, Place>) {
        let tasks: BTreeMap<&str, &[String]> = phases
            .iter()
            .flat_map(|(_, phase)| &phase.tasks)
            .map(|task| (task.id.as_str(), task.dependencies.as_slice()))
            .collect();
        for cycle in find_cycles(&tasks).into_iter().take(MAX_CYCLES) {
            let Some(place) = cycle.first().and_then(|first| places.get(*first)) else { continue };
            let mut printed: Vec<&str> = cycle.clone();
            printed.extend(cycle.first());
            let is_written = cycle.iter().enumerate().all(|(at, name)| {
                let next = cycle.get(at + 1).or(cycle.first());
                let draft = places
                    .get(*name)
                    .and_then(|place| self.draft.phases.get(place.phase)?.tasks.get(place.task));
                draft.is_some_and(|task| task.dependencies.iter().any(|name| Some(&name.as_str()) == next))
            });
            let hint = if is_written {
                "remove one of these dependencies"
            } else {
                "in a phase without parallelExecution each task waits for the one before it; reorder the tasks or remove a dependency"
            };
            let path = path.at(place.phase).at("tasks").at(place.task).at("dependencies");
            let message = format!("tasks wait for each other: {}; {hint}", printed.join(" -> "));
            self.report.fault(&path, "DEPENDENCY_CYCLE", message);
        }
    }
}

fn places(phases: &[(usize, Phase)]) -> BTreeMap<String, Place> {
    let mut places = BTreeMap::new();
    for (rank, (index, phase)) in phases.iter().enumerate() {
        for (task, written) in phase.tasks.iter().enumerate() {
            places.entry(written.id.clone()).or_insert(Place { rank, phase: *index, task });
        }
    }
    places
}

/// Adds what a sequential phase says by its order, and drops repetitions and what is not there.
fn complete(phase: &mut Phase, places: &BTreeMap<String, Place>) {
    let mut before: Option<String> = None;
    for task in &mut phase.tasks {
        let mut seen = BTreeSet::new();
        task.dependencies.retain(|name| places.contains_key(name) && seen.insert(name.clone()));
        if let Some(before) = before.take().filter(|before| !phase.parallel && !seen.contains(before)) {
            task.dependencies.push(before);
        }
        before = Some(task.id.clone());
    }
}

/// The cycles of a graph, each once, as the names along it. Follows an explicit stack: a thousand tasks may stand in
/// one line.
fn find_cycles<'a>(tasks: &BTreeMap<&'a str, &'a [String]>) -> Vec<Vec<&'a str>> {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let mut cycles = Vec::new();
    for start in tasks.keys() {
        if done.contains(start) {
            continue;
        }
        let mut trail: Vec<(&str, usize)> = vec![(start, 0)];
        let mut on_trail: BTreeSet<&str> = BTreeSet::from([*start]);
        while let Some((name, next)) = trail.last_mut() {
            let name = *name;
            let dependency = tasks.get(name).and_then(|dependencies| dependencies.get(*next));
            *next += 1;
            let Some(dependency) = dependency else {
                trail.pop();
                on_trail.remove(name);
                done.insert(name);
                continue;
            };
            let dependency = dependency.as_str();
            if on_trail.contains(dependency) {
                let cycle =
                    trail.iter().map(|(name, _)| *name).skip_while(|name| *name != dependency).collect();
                cycles.push(cycle);
            } else if !done.contains(dependency) {
                on_trail.insert(dependency);
                trail.push((dependency, 0));
            }
        }
    }
    cycles
}

impl Definition {
    /// Task ids in an order in which they could run: phase by phase, and within a phase each after what it waits for,
    /// otherwise as written.
    pub fn execution_order(&self) -> Vec<&str> {
        let mut order: Vec<&str> = Vec::new();
        let mut done: BTreeSet<&str> = BTreeSet::new();
        for phase in &self.phases {
            let mut waiting: Vec<_> = phase.tasks.iter().collect();
            while let Some(at) = waiting
                .iter()
                .position(|task| task.dependencies.iter().all(|name| done.contains(name.as_str())))
            {
                let task = waiting.remove(at);
                done.insert(&task.id);
                order.push(&task.id);
            }
        }
        order
    }
}
