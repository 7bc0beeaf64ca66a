//! Conditions: expressions of the Common Expression Language over what an instance knows.
//!
//! An expression comes from a tenant and runs inside the engine, so it is fenced twice. [`Condition::parse`] admits only
//! small expressions over known names, with functions whose cost is bounded by what they read, and at most one loop
//! inside another none; it leaves out `map` and `matches`, because a chain of one and a pattern of the other grow
//! without end. [`Condition::evaluate`] counts what an expression reads and stops it at a limit that does not depend on
//! the machine. Both run on a stack of their own where they need the CEL library, because it recurses; a condition that
//! is only names of facts, as most are, never meets it.

mod check;
mod evaluate;
mod facts;
mod input;

use std::collections::BTreeSet;
use std::sync::Arc;

use cel::Program;

pub use input::{ApprovalInput, ArtifactInput, Inputs, PhaseInput, TaskInput};

/// Longest expression.
pub const MAX_SOURCE: usize = 1024;

/// Deepest nesting of brackets.
pub const MAX_NESTING: usize = 16;

/// Most brackets, wherever they stand: what looks like text may not be, see [`nesting`].
const MAX_BRACKETS: usize = 128;

/// Most nodes of an expression, with its macros written out.
pub const MAX_NODES: usize = 200;

/// Most members of a list or map that an expression with a loop may read.
pub const MAX_ITEMS: usize = 1000;

/// The fact that the engine itself knows: every task of the phase is done or handed in.
pub const ALL_TASKS_COMPLETE: &str = "all_tasks_complete";

/// Stack for parsing and evaluating; a thousand levels of recursion fit with room to spare.
const STACK: usize = 16 * 1024 * 1024;

/// An expression that was found fit to run.
#[derive(Debug, Clone)]
pub struct Condition {
    source: Arc<str>,
    form: Form,
    facts: BTreeSet<String>,
    reads_approvals: bool,
}

#[derive(Debug, Clone)]
enum Form {
    /// Names of facts, each with whether it must be false, joined by `&&`.
    Facts(Vec<facts::Term>),
    /// Anything else.
    Expression(Arc<Expression>),
}

/// A compiled expression with what evaluating it needs to know.
#[derive(Debug)]
struct Expression {
    program: Program,
    reads: check::Reads,
}

/// The names that an expression may use because the definition has them.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Ids of phases.
    pub phases: BTreeSet<String>,
    /// Ids of tasks.
    pub tasks: BTreeSet<String>,
}

/// Why an expression is not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConditionFault {
    /// `CONDITION_INVALID`, `CONDITION_TOO_COSTLY` or `CONDITION_UNKNOWN`.
    pub code: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl ConditionFault {
    fn invalid(message: impl Into<String>) -> Self {
        Self { code: "CONDITION_INVALID", message: message.into() }
    }

    fn too_costly(message: impl Into<String>) -> Self {
        Self { code: "CONDITION_TOO_COSTLY", message: message.into() }
    }

    fn unknown(message: impl Into<String>) -> Self {
        Self { code: "CONDITION_UNKNOWN", message: message.into() }
    }
}

/// Why an admitted expression has no answer for these inputs. None of the messages carries a value of the inputs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConditionFailed {
    /// It reads a member that is not there.
    #[error("`{0}` is not there; guard it with has(..)")]
    Missing(String),
    /// It uses a value for what that kind of value cannot do.
    #[error("{0}")]
    Unfit(String),
    /// It is neither true nor false.
    #[error("the result is {0}, not true or false")]
    NotBoolean(String),
    /// It reads more than one evaluation may.
    #[error("it reads too much: {0}")]
    TooCostly(String),
    /// The machine could not run it.
    #[error("it could not be run: {0}")]
    NotRun(String),
}

impl Condition {
    /// Admits an expression, or says why not.
    pub fn parse(source: &str, scope: &Scope) -> Result<Self, ConditionFault> {
        refuse_size(source)?;
        if let Some(terms) = facts::terms(source) {
            let facts: BTreeSet<String> = terms.iter().map(|term| term.fact.clone()).collect();
            return Ok(Self::new(source, Form::Facts(terms), facts, false));
        }
        let (program, reads) = on_own_stack(|| {
            let program = Program::compile(source).map_err(|errors| unparsed(&errors))?;
            let reads = check::check(program.expression(), scope)?;
            Ok((program, reads))
        })
        .unwrap_or_else(|failed| Err(ConditionFault::invalid(failed.to_string())))?;
        let (facts, reads_approvals) = (reads.facts.clone(), reads.approvals);
        Ok(Self::new(
            source,
            Form::Expression(Arc::new(Expression { program, reads })),
            facts,
            reads_approvals,
        ))
    }

    fn new(source: &str, form: Form, facts: BTreeSet<String>, reads_approvals: bool) -> Self {
        let reads_approvals = reads_approvals || facts.iter().any(|fact| fact.ends_with(APPROVED));
        Self { source: source.into(), form, facts, reads_approvals }
    }

    /// The expression as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether a decision of people can change the answer: it reads `approvals` or a fact that an approval sets.
    pub fn reads_approvals(&self) -> bool {
        self.reads_approvals
    }

    /// The facts that it reads.
    pub fn facts(&self) -> impl Iterator<Item = &str> {
        self.facts.iter().map(String::as_str)
    }

    /// Whether the expression holds for these inputs. The same inputs give the same answer, on every machine.
    pub fn evaluate(&self, inputs: &Inputs<'_>) -> Result<bool, ConditionFailed> {
        match &self.form {
            Form::Facts(terms) => Ok(terms.iter().all(|term| inputs.fact(&term.fact) != term.negated)),
            Form::Expression(expression) => {
                on_own_stack(|| evaluate::evaluate(&expression.program, &expression.reads, inputs))?
            }
        }
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Condition {}

/// The end of the name of a fact that an approved request sets.
const APPROVED: &str = "_approved";

/// The fact that an approved request with this key, or about this subject, sets. Characters that no name in an
/// expression can have become `_`.
pub fn approved_fact(key: &str) -> String {
    let mut fact: String =
        key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    fact.push_str(APPROVED);
    fact
}

/// What can be refused before anything recursive looks at it.
fn refuse_size(source: &str) -> Result<(), ConditionFault> {
    if source.trim().is_empty() {
        return Err(ConditionFault::invalid("the expression is empty; write one or leave it out"));
    }
    if source.len() > MAX_SOURCE {
        return Err(ConditionFault::too_costly(format!(
            "the expression has {} bytes, and {MAX_SOURCE} are allowed; set a fact instead",
            source.len()
        )));
    }
    let brackets = source.matches(['(', '[', '{']).count();
    if brackets > MAX_BRACKETS {
        return Err(ConditionFault::too_costly(format!(
            "there are {brackets} brackets, and {MAX_BRACKETS} are allowed; split the expression"
        )));
    }
    let nesting = nesting(source);
    if nesting > MAX_NESTING {
        return Err(ConditionFault::too_costly(format!(
            "brackets are nested {nesting} deep, and {MAX_NESTING} levels are allowed; split the expression"
        )));
    }
    Ok(())
}

/// The deepest nesting of brackets outside of quotes. Raw strings may fool it; the parser's own limit and the stack are
/// there for what they hide.
fn nesting(source: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let mut quote = None;
    let mut escaped = false;
    for c in source.chars() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '(' | '[' | '{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
    }
    deepest
}

/// Says where and how an expression stops being one.
fn unparsed(errors: &cel::ParseErrors) -> ConditionFault {
    let Some(first) = errors.errors.first() else {
        return ConditionFault::invalid("the expression cannot be read");
    };
    let message: String = first.msg.chars().take(200).collect();
    ConditionFault::invalid(format!(
        "the expression cannot be read at line {}, column {}: {message}",
        first.pos.0.max(1),
        first.pos.1.max(1)
    ))
}

/// Runs `work` where deep recursion has room, and turns a panic of the library into an answer.
fn on_own_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, ConditionFailed> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("condition".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, work)
            .map_err(|error| ConditionFailed::NotRun(error.kind().to_string()))?
            .join()
            .map_err(|_| ConditionFailed::NotRun("the evaluator gave up".to_owned()))
    })
}

#[cfg(test)]
mod tests;
