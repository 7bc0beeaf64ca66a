//! From a draft to a definition, or to every fault in it at once.
//!
//! Nothing stops at the first fault: a part that is wrong is noted and left out, and the rest is looked at. Only what
//! is too large is refused before it is read, so that no draft costs more to refuse than to accept.

mod error_handling;
mod gates;
mod graph;
mod limits;
mod people;
mod phases;
mod text;
mod timing;
mod warnings;

use std::collections::{BTreeMap, BTreeSet};

use crate::condition::{Condition, ConditionFault, Scope};
use crate::definition::{Definition, Phase};
use crate::draft::Draft;
use crate::issue::{Issue, Path, Report, Severity};
use crate::schema::Schema;

pub use limits::MAX_BYTES;
pub(crate) use text::{free_text, is_id, one_line};

/// What checking a draft gave.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The definition; absent where there is a fault.
    pub definition: Option<Definition>,
    /// Faults first, then warnings; at most 100.
    pub issues: Vec<Issue>,
}

impl Checked {
    /// The faults.
    pub fn faults(&self) -> impl Iterator<Item = &Issue> {
        self.issues.iter().filter(|issue| issue.severity == Severity::Error)
    }

    /// The warnings.
    pub fn warnings(&self) -> impl Iterator<Item = &Issue> {
        self.issues.iter().filter(|issue| issue.severity == Severity::Warning)
    }

    /// Whether it was refused for its size alone, without being read.
    pub fn is_too_large(&self) -> bool {
        self.issues.first().is_some_and(|issue| issue.code == limits::TOO_LARGE)
    }
}

/// Checks a draft, and resolves it where it has no fault.
pub fn validate(draft: &Draft) -> Checked {
    let mut report = Report::default();
    limits::check(draft, &mut report);
    if report.has_faults() {
        return Checked { definition: None, issues: report.finish() };
    }
    let mut checker = Checker::new(draft, report);
    let definition = checker.definition();
    warnings::note(&definition, draft, &mut checker.report);
    let is_sound = !checker.report.has_faults();
    Checked { definition: is_sound.then_some(definition), issues: checker.report.finish() }
}

/// What the checks of all parts share.
struct Checker<'a> {
    draft: &'a Draft,
    report: Report,
    /// Names that conditions may use.
    scope: Scope,
    /// Positions of the phases in the order in which they run.
    order: Vec<usize>,
    /// Expressions that were read; many phases have the same ones.
    conditions: BTreeMap<&'a str, Result<Condition, ConditionFault>>,
}

impl<'a> Checker<'a> {
    fn new(draft: &'a Draft, report: Report) -> Self {
        let scope = Scope {
            phases: draft.phases.iter().map(|phase| phase.id.clone()).collect(),
            tasks: draft.phases.iter().flat_map(|phase| &phase.tasks).map(|task| task.id.clone()).collect(),
        };
        let mut order: Vec<usize> = (0..draft.phases.len()).collect();
        order.sort_by_key(|index| draft.phases.get(*index).map(|phase| phase.order));
        Self { draft, report, scope, order, conditions: BTreeMap::new() }
    }

    fn definition(&mut self) -> Definition {
        let draft = self.draft;
        let root = Path::root();
        self.header(&root);
        self.unique_ids(&root);
        let agents = self.agents(&root.at("agents"));
        let humans = self.humans(&root.at("humans"));
        let timing = self.own_timing(&root, &timing::Written::of_definition(draft));
        self.schema(&root.at("contextSchema"));
        self.escalation_path(&root.at("escalationPath"));
        let mut phases: Vec<(usize, Phase)> = self.phases(&root.at("phases"), &timing);
        let gates = self.gates(&root.at("gates"), &timing);
        self.dependencies(&root.at("phases"), &mut phases);
        Definition {
            id: draft.id.clone(),
            name: draft.name.clone(),
            version: draft.version.clone(),
            description: draft.description.clone().unwrap_or_default(),
            phases: phases.into_iter().map(|(_, phase)| phase).collect(),
            agents,
            humans,
            gates,
            context_schema: draft.context_schema.clone().map(serde_json::Value::Object),
            escalation_path: draft.escalation_path.clone(),
            labels: draft.labels.clone(),
            draft: draft.draft,
        }
    }

    fn header(&mut self, root: &Path) {
        let draft = self.draft;
        self.id(&root.at("id"), &draft.id);
        if matches!(draft.id.as_str(), "instances" | "validate") {
            self.report.fault(
                &root.at("id"),
                "ID_INVALID",
                format!("`{}` is a word of the API; choose another id", draft.id),
            );
        }
        self.name(&root.at("name"), &draft.name);
        self.description(&root.at("description"), draft.description.as_deref());
        text::version(&mut self.report, &root.at("version"), &draft.version);
        for (label, words) in &draft.labels {
            let fits = one_line(label, 1, 63) && one_line(words, 0, 200);
            if !fits {
                let path = root.at("labels").at(label);
                let message = "a label is one line of 1 to 63 characters, and what it says one of at most 200; shorten it";
                self.report.fault(&path, "TEXT_INVALID", message);
            }
        }
        if draft.phases.is_empty() {
            self.report.fault(&root.at("phases"), "PHASES_EMPTY", "there is no phase; write at least one");
        }
    }

    /// Phases, tasks and gates share one space of names: approvals and the facts that they set go by them.
    fn unique_ids(&mut self, root: &Path) {
        let draft = self.draft;
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        let mut twice = |report: &mut Report, path: Path, kind: &'static str, id: &'a str| {
            if let Some(other) = seen.insert(id, kind).filter(|_| !id.is_empty()) {
                let message = format!(
                    "`{id}` names a {other} already; ids of phases, tasks and gates are unique, choose another"
                );
                report.fault(&path, "ID_DUPLICATE", message);
            }
        };
        for (index, phase) in draft.phases.iter().enumerate() {
            let path = root.at("phases").at(index);
            twice(&mut self.report, path.at("id"), "phase", &phase.id);
            for (index, task) in phase.tasks.iter().enumerate() {
                twice(&mut self.report, path.at("tasks").at(index).at("id"), "task", &task.id);
            }
        }
        for (index, gate) in draft.gates.iter().enumerate() {
            twice(&mut self.report, root.at("gates").at(index).at("id"), "gate", &gate.id);
        }
    }

    fn schema(&mut self, path: &Path) {
        let Some(schema) = &self.draft.context_schema else { return };
        if let Err(unusable) = Schema::compile(&serde_json::Value::Object(schema.clone())) {
            self.report.fault(
                &path.under(&unusable.path),
                "SCHEMA_INVALID",
                format!("the schema {}", unusable.message),
            );
        }
    }

    fn condition(&mut self, path: &Path, source: &'a str) -> Option<Condition> {
        let scope = &self.scope;
        let read = self.conditions.entry(source).or_insert_with(|| Condition::parse(source, scope));
        match read {
            Ok(condition) => Some(condition.clone()),
            Err(fault) => {
                self.report.fault(path, fault.code, fault.message.clone());
                None
            }
        }
    }

    /// Notes a name that stands twice in one list.
    fn repeated(&mut self, path: &Path, names: &[String]) {
        let mut seen = BTreeSet::new();
        for (index, name) in names.iter().enumerate() {
            if !seen.insert(name) {
                self.report.fault(
                    &path.at(index),
                    "ID_DUPLICATE",
                    format!("`{name}` stands here twice; remove one"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
