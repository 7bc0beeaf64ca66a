//! Runs a checked expression over the inputs, on a budget.
//!
//! The library asks for each name as it meets it, most specific first (`tasks.a.status`, `tasks.a`, `tasks`), so an
//! expression pays for what it reads and not for what there is. Every answer is charged by its size; since nothing
//! between two answers costs more than a small multiple of what they gave, the charge bounds time and memory, and unlike
//! a clock it decides the same on every machine.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt,
};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, ExecutionError, Program, Value as CelValue};
use serde_json::Value;

use super::check::Reads;
use super::input::{ApprovalInput, ArtifactInput, Inputs, PhaseInput, TaskInput};
use super::{ConditionFailed, MAX_ITEMS};

/// What one evaluation may read, in bytes or so: under a second of work, and enough to ask a thousand tasks about each
/// other's status.
const BUDGET: u64 = 192 * 1024 * 1024;

/// What every value costs beside its text.
const COST: u64 = 16;

/// Deepest value that is read; the services refuse deeper ones before they are stored.
const MAX_DEPTH: usize = 64;

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// The answer of `program` for `inputs`.
pub(super) fn evaluate(
    program: &Program,
    reads: &Reads,
    inputs: &Inputs<'_>,
) -> Result<bool, ConditionFailed> {
    let reader = Reader {
        inputs,
        reads,
        spent: AtomicU64::new(0),
        excess: Mutex::new(None),
        whole: [const { OnceLock::new() }; 6],
    };
    let result = {
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context.set_variable_resolver(&reader);
        program.execute(&context)
    };
    // `||` takes true for an answer whatever its other side was: ask first whether the budget was kept.
    if let Some(excess) = reader.excess.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(ConditionFailed::TooCostly(excess));
    }
    match result {
        Ok(CelValue::Bool(answer)) => Ok(answer),
        Ok(other) => Err(ConditionFailed::NotBoolean(format!("of type {}", other.type_of()))),
        Err(error) => Err(failed(error)),
    }
}

/// The library's messages print the values that they met; ours name kinds and fields only, because they are kept.
fn failed(error: ExecutionError) -> ConditionFailed {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is not exhaustive, and most of it cannot occur here"
    )]
    let message = match error {
        ExecutionError::NoSuchKey(name) => return ConditionFailed::Missing(short(&name)),
        ExecutionError::UndeclaredReference(name) => return ConditionFailed::Missing(short(&name)),
        ExecutionError::NoSuchOverload(overload) => overload.to_string(),
        ExecutionError::UnexpectedType { got, want } => {
            format!("a value of type {got} stands where {want} is needed")
        }
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            "it divides by zero".to_owned()
        }
        ExecutionError::Overflow(operator, ..) => format!("`{operator}` leaves the range of numbers"),
        ExecutionError::IndexOutOfBounds(_) => "an index is out of bounds".to_owned(),
        ExecutionError::FunctionError { function, .. } => format!("`{function}` cannot read its argument"),
        ExecutionError::UnsupportedBinaryOperator(operator, ..) => {
            format!("`{operator}` does not fit the kinds of its sides")
        }
        ExecutionError::ValuesNotComparable(..) => "values of different kinds are compared".to_owned(),
        _ => "its values are of kinds that it cannot use".to_owned(),
    };
    ConditionFailed::Unfit(short(&message))
}

fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

/// Answers the library's questions for names.
struct Reader<'a> {
    inputs: &'a Inputs<'a>,
    reads: &'a Reads,
    spent: AtomicU64,
    /// Why the evaluation may not go on.
    excess: Mutex<Option<String>>,
    /// Whole inputs, made when first asked for; with their cost.
    whole: [OnceLock<(Box<dyn Val + 'a>, u64)>; 6],
}

/// A place in the inputs.
#[derive(Clone, Copy)]
enum Place<'a> {
    Json(&'a Value),
    Absent,
    Text(&'a str),
    Number(u32),
    Truth(bool),
    Facts,
    Phases,
    Phase(PhaseInput<'a>),
    Tasks,
    Task(TaskInput<'a>),
    Artifacts,
    Artifact(ArtifactInput<'a>),
    Approvals,
    Approval(ApprovalInput<'a>),
}

impl VariableResolver for Reader<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        if self.is_over() {
            return None;
        }
        let mut names = variable.split('.');
        let first = names.next()?;
        let mut place = match self.root(first) {
            Some((root, slot)) => match names.next() {
                None => return self.whole(root, slot),
                Some(name) => self.member(root, name)?,
            },
            // A bare name is a fact; no fact has members, so `a.b` is not one.
            None if variable == first => Place::Truth(self.inputs.fact(first)),
            None => return None,
        };
        for name in names {
            place = self.member(place, name)?;
        }
        let mut cost = 0;
        let value = self.build(place, &mut cost, 0)?;
        self.charge(cost).then_some(CowVal::Owned(value))
    }
}

impl<'a> Reader<'a> {
    fn root(&self, name: &str) -> Option<(Place<'a>, usize)> {
        Some(match name {
            "context" => (self.inputs.context.map_or(Place::Absent, Place::Json), 0),
            "facts" => (Place::Facts, 1),
            "phases" => (Place::Phases, 2),
            "tasks" => (Place::Tasks, 3),
            "artifacts" => (Place::Artifacts, 4),
            "approvals" => (Place::Approvals, 5),
            _ => return None,
        })
    }

    fn whole<'b>(&'b self, root: Place<'a>, slot: usize) -> Option<CowVal<'b, 'b>> {
        let slot = self.whole.get(slot)?;
        if slot.get().is_none() {
            let mut cost = 0;
            let value = self.build(root, &mut cost, 0)?;
            // Nobody else has this reader; a value that is already there is the same.
            let _ = slot.set((value, cost));
        }
        let (value, cost) = slot.get()?;
        self.charge(*cost).then_some(CowVal::Borrowed(value.as_ref()))
    }

    fn member(&self, place: Place<'a>, name: &str) -> Option<Place<'a>> {
        match place {
            Place::Json(value) => value.get(name).map(Place::Json),
            Place::Facts => Some(Place::Truth(self.inputs.fact(name))),
            Place::Phases => self.inputs.phases.get(name).copied().map(Place::Phase),
            Place::Tasks => self.inputs.tasks.get(name).copied().map(Place::Task),
            Place::Artifacts => {
                Some(Place::Artifact(self.inputs.artifacts.get(name).copied().unwrap_or_default()))
            }
            Place::Approvals => {
                Some(Place::Approval(self.inputs.approvals.get(name).copied().unwrap_or(ApprovalInput::NONE)))
            }
            Place::Phase(_) | Place::Task(_) | Place::Artifact(_) | Place::Approval(_) => {
                fields(place).into_iter().find(|(field, _)| *field == name).map(|(_, place)| place)
            }
            Place::Absent | Place::Text(_) | Place::Number(_) | Place::Truth(_) => None,
        }
    }

    /// The value at a place, with what it costs.
    fn build(&self, place: Place<'a>, cost: &mut u64, depth: usize) -> Option<Box<dyn Val + 'a>> {
        *cost += COST;
        if depth > MAX_DEPTH {
            return self.stop(format!("a value is nested more than {MAX_DEPTH} deep"));
        }
        Some(match place {
            Place::Json(value) => return self.json(value, cost, depth),
            Place::Absent => Box::new(CelMap::default()),
            Place::Text(text) => Box::new(text_value(text, cost)),
            Place::Number(number) => Box::new(CelInt::from(i64::from(number))),
            Place::Truth(truth) => Box::new(CelBool::from(truth)),
            Place::Facts => {
                let set = self.inputs.facts.into_iter().flatten();
                let mut facts: BTreeMap<&'a str, Place<'a>> =
                    set.map(|(name, truth)| (name.as_str(), Place::Truth(*truth))).collect();
                for name in &self.reads.facts {
                    facts.insert(name, Place::Truth(self.inputs.fact(name)));
                }
                return self.map(facts, cost, depth);
            }
            Place::Phases => {
                let phases = self.inputs.phases.iter();
                return self.map(phases.map(|(id, phase)| (*id, Place::Phase(*phase))), cost, depth);
            }
            Place::Tasks => {
                let tasks = self.inputs.tasks.iter().map(|(id, task)| {
                    let output = task.output.filter(|_| self.reads.outputs);
                    (*id, Place::Task(TaskInput { output, ..*task }))
                });
                return self.map(tasks, cost, depth);
            }
            Place::Artifacts => {
                let stored = self.inputs.artifacts.iter().map(|(key, artifact)| (*key, *artifact));
                let mut artifacts: BTreeMap<&'a str, ArtifactInput<'a>> = stored.collect();
                for key in &self.reads.named_artifacts {
                    artifacts.entry(key).or_default();
                }
                return self.map(
                    artifacts.into_iter().map(|(key, it)| (key, Place::Artifact(it))),
                    cost,
                    depth,
                );
            }
            Place::Approvals => {
                let asked = self.inputs.approvals.iter().map(|(key, approval)| (*key, *approval));
                let mut approvals: BTreeMap<&'a str, ApprovalInput<'a>> = asked.collect();
                for key in &self.reads.named_approvals {
                    approvals.entry(key).or_insert(ApprovalInput::NONE);
                }
                return self.map(
                    approvals.into_iter().map(|(key, it)| (key, Place::Approval(it))),
                    cost,
                    depth,
                );
            }
            Place::Phase(_) | Place::Task(_) | Place::Artifact(_) | Place::Approval(_) => {
                return self.map(fields(place), cost, depth);
            }
        })
    }

    fn json(&self, value: &'a Value, cost: &mut u64, depth: usize) -> Option<Box<dyn Val + 'a>> {
        Some(match value {
            Value::Null => Box::new(CelNull),
            Value::Bool(truth) => Box::new(CelBool::from(*truth)),
            Value::Number(number) => number_value(number),
            Value::String(text) => Box::new(text_value(text, cost)),
            Value::Array(items) => {
                self.countable(items.len())?;
                let values: Option<Vec<Box<dyn Val + 'a>>> =
                    items.iter().map(|item| self.build(Place::Json(item), cost, depth + 1)).collect();
                Box::new(CelList::from(values?))
            }
            Value::Object(members) => {
                let members = members.iter().map(|(name, member)| (name.as_str(), Place::Json(member)));
                return self.map(members, cost, depth);
            }
        })
    }

    fn map(
        &self,
        members: impl IntoIterator<Item = (&'a str, Place<'a>)>,
        cost: &mut u64,
        depth: usize,
    ) -> Option<Box<dyn Val + 'a>> {
        let mut map: HashMap<CelMapKey<'a>, Box<dyn Val + 'a>> = HashMap::new();
        for (name, member) in members {
            *cost += u64::try_from(name.len()).unwrap_or(u64::MAX);
            map.insert(CelMapKey::from(name), self.build(member, cost, depth + 1)?);
        }
        self.countable(map.len())?;
        Some(Box::new(CelMap::from(map)))
    }

    /// A loop may not go over more than so many members.
    fn countable(&self, count: usize) -> Option<()> {
        if self.reads.loops && count > MAX_ITEMS {
            return self
                .stop(format!("a list or map has {count} members, and {MAX_ITEMS} are allowed in a loop"));
        }
        Some(())
    }

    fn charge(&self, cost: u64) -> bool {
        let spent = self.spent.fetch_add(cost, Ordering::Relaxed).saturating_add(cost);
        if spent > BUDGET {
            let _: Option<()> = self.stop("it reads the same values again and again".to_owned());
        }
        spent <= BUDGET
    }

    fn is_over(&self) -> bool {
        self.excess.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some()
    }

    fn stop<T>(&self, why: String) -> Option<T> {
        self.excess.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(why);
        None
    }
}

fn fields(place: Place<'_>) -> Vec<(&'static str, Place<'_>)> {
    match place {
        Place::Phase(phase) => {
            vec![("status", Place::Text(phase.status)), ("round", Place::Number(phase.round))]
        }
        Place::Task(task) => vec![
            ("status", Place::Text(task.status)),
            ("round", Place::Number(task.round)),
            ("attempt", Place::Number(task.attempt)),
            ("output", task.output.map_or(Place::Absent, Place::Json)),
        ],
        Place::Artifact(artifact) => vec![
            ("version", Place::Number(artifact.version)),
            ("type", Place::Text(artifact.kind)),
            ("phase", Place::Text(artifact.phase)),
            ("digest", Place::Text(artifact.digest)),
        ],
        Place::Approval(approval) => {
            vec![("status", Place::Text(approval.status)), ("round", Place::Number(approval.round))]
        }
        Place::Json(_)
        | Place::Absent
        | Place::Text(_)
        | Place::Number(_)
        | Place::Truth(_)
        | Place::Facts
        | Place::Phases
        | Place::Tasks
        | Place::Artifacts
        | Place::Approvals => Vec::new(),
    }
}

fn text_value<'a>(text: &'a str, cost: &mut u64) -> CelString<'a> {
    *cost += u64::try_from(text.len()).unwrap_or(u64::MAX);
    CelString::from(text)
}

/// Whole numbers are whole whatever door they came through: protobuf brings 5 as 5.0.
fn number_value<'a>(number: &serde_json::Number) -> Box<dyn Val + 'a> {
    let number = crate::canonical::whole(number);
    if let Some(whole) = number.as_i64() {
        Box::new(CelInt::from(whole))
    } else if let Some(large) = number.as_u64() {
        Box::new(CelUInt::from(large))
    } else {
        Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN)))
    }
}
