//! What an expression may say: known names, known functions, bounded work, an answer that is true or false.

use std::collections::BTreeSet;

use cel::IdedExpr;
use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, LiteralValue, operators,
};

use super::facts::is_fact;
use super::{ConditionFault, MAX_NODES, Scope};
use crate::issue::{did_you_mean, listed};

/// Most additions inside a loop: each may copy text, and the copies grow with every one.
const MAX_ADDITIONS: usize = 8;

/// Functions that an expression may call.
const FUNCTIONS: [&str; 9] =
    ["size", "contains", "startsWith", "endsWith", "int", "double", "string", "timestamp", "duration"];

/// Inputs by name.
const ROOTS: [(&str, Root); 6] = [
    ("context", Root::Context),
    ("facts", Root::Facts),
    ("phases", Root::Phases),
    ("tasks", Root::Tasks),
    ("artifacts", Root::Artifacts),
    ("approvals", Root::Approvals),
];

/// What an expression reads.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Facts.
    pub(super) facts: BTreeSet<String>,
    /// The root `approvals`.
    pub(super) approvals: bool,
    /// Artifacts that it names; they read as version 0 where nobody stored them.
    pub(super) named_artifacts: BTreeSet<String>,
    /// Approvals that it names; they read as `none` where nobody asked.
    pub(super) named_approvals: BTreeSet<String>,
    /// The `output` of a task.
    pub(super) outputs: bool,
    /// A loop.
    pub(super) loops: bool,
}

/// One of the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    Context,
    Facts,
    Phases,
    Tasks,
    Artifacts,
    Approvals,
}

/// What is known of a value before there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// True or false.
    Bool,
    /// Neither; says what.
    Other(&'static str),
    /// Anything.
    Unknown,
    /// An input.
    Root(Root),
    /// A member of an input: one phase, one task.
    Member(Root),
}

/// Checks a parsed expression, and says what it reads.
pub(super) fn check(expression: &IdedExpr, scope: &Scope) -> Result<Reads, ConditionFault> {
    let mut measure = Measure::default();
    measure.visit(expression, 0)?;
    let mut checker = Checker { scope, reads: Reads::default(), bound: Vec::new(), additions: 0 };
    let shape = checker.visit(expression)?;
    truth(shape, "the expression")?;
    checker.reads.loops = measure.loops;
    Ok(checker.reads)
}

/// Counts, before anything else is said about an expression.
#[derive(Default)]
struct Measure {
    nodes: usize,
    loops: bool,
}

impl Measure {
    fn visit(&mut self, expression: &IdedExpr, level: usize) -> Result<(), ConditionFault> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(ConditionFault::too_costly(format!(
                "the expression has more than {MAX_NODES} parts; split it or set a fact instead"
            )));
        }
        if let Expr::Comprehension(comprehension) = &expression.expr {
            self.loops = true;
            if level > 0 {
                return Err(ConditionFault::too_costly(
                    "a loop stands inside another one; set a fact for the inner question instead",
                ));
            }
            self.visit(&comprehension.iter_range, level)?;
            self.visit(&comprehension.accu_init, level)?;
            for part in [&comprehension.loop_cond, &comprehension.loop_step, &comprehension.result] {
                self.visit(part, level + 1)?;
            }
            return Ok(());
        }
        children(&expression.expr).into_iter().try_for_each(|child| self.visit(child, level))
    }
}

/// The parts of an expression that is no loop.
fn children(expression: &Expr) -> Vec<&IdedExpr> {
    match expression {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) | Expr::Comprehension(_) => Vec::new(),
        Expr::Call(call) => call.target.iter().map(|target| &**target).chain(&call.args).collect(),
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => entries(&map.entries),
        Expr::Select(select) => vec![&*select.operand],
        Expr::Struct(literal) => entries(&literal.entries),
    }
}

fn entries(entries: &[IdedEntryExpr]) -> Vec<&IdedExpr> {
    entries
        .iter()
        .flat_map(|entry| match &entry.expr {
            EntryExpr::StructField(field) => vec![&field.value],
            EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
        })
        .collect()
}

struct Checker<'a> {
    scope: &'a Scope,
    reads: Reads,
    /// Names that the loop around binds.
    bound: Vec<&'a str>,
    additions: usize,
}

impl<'a> Checker<'a> {
    fn visit(&mut self, expression: &'a IdedExpr) -> Result<Shape, ConditionFault> {
        match &expression.expr {
            Expr::Unspecified => Err(ConditionFault::invalid("a part of the expression is missing")),
            Expr::Ident(name) => self.ident(name),
            Expr::Literal(literal) => Ok(literal_shape(literal)),
            Expr::Call(call) => self.call(call),
            Expr::Select(select) => {
                let operand = self.operand(&select.operand)?;
                let shape = self.member(operand, &select.field, select.test)?;
                Ok(if select.test { Shape::Bool } else { shape })
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::List(_) => self.parts(&expression.expr, "a list"),
            Expr::Map(_) => self.parts(&expression.expr, "a map"),
            Expr::Struct(literal) => Err(ConditionFault::unknown(format!(
                "there is no type `{}`; write a map or compare the fields one by one",
                literal.type_name
            ))),
        }
    }

    fn parts(&mut self, expression: &'a Expr, what: &'static str) -> Result<Shape, ConditionFault> {
        for child in children(expression) {
            self.visit(child)?;
        }
        Ok(Shape::Other(what))
    }

    fn ident(&mut self, name: &'a str) -> Result<Shape, ConditionFault> {
        if self.is_bound(name) {
            return Ok(Shape::Unknown);
        }
        if let Some(root) = root(name) {
            self.reads.approvals |= root == Root::Approvals;
            return Ok(Shape::Root(root));
        }
        if is_fact(name) {
            self.reads.facts.insert(name.to_owned());
            return Ok(Shape::Bool);
        }
        Err(ConditionFault::unknown(format!(
            "`{name}` is neither an input nor the name of a fact, which is lower-case letters, digits and _{}",
            did_you_mean(name, ROOTS.iter().map(|(known, _)| *known))
        )))
    }

    /// What stands before a dot or a bracket: an input, never a fact.
    fn operand(&mut self, expression: &'a IdedExpr) -> Result<Shape, ConditionFault> {
        if let Expr::Ident(name) = &expression.expr
            && !self.is_bound(name)
            && root(name).is_none()
        {
            let known = ROOTS.map(|(known, _)| known);
            return Err(ConditionFault::unknown(format!(
                "`{name}` has no members; begin with {}{}",
                listed(&known, "or"),
                did_you_mean(name, known)
            )));
        }
        self.visit(expression)
    }

    /// The member `name` of a value.
    fn member(&mut self, of: Shape, name: &str, test: bool) -> Result<Shape, ConditionFault> {
        match of {
            Shape::Unknown | Shape::Root(Root::Context) => Ok(Shape::Unknown),
            Shape::Bool => Err(ConditionFault::unknown(format!("true and false have no member `{name}`"))),
            Shape::Other(what) => Err(ConditionFault::unknown(format!("{what} has no member `{name}`"))),
            Shape::Root(Root::Facts) => {
                if !is_fact(name) {
                    return Err(ConditionFault::unknown(format!("`{name}` can be the name of no fact")));
                }
                if !test {
                    self.reads.facts.insert(name.to_owned());
                }
                Ok(Shape::Bool)
            }
            Shape::Root(Root::Phases) => known(name, "phase", &self.scope.phases, Root::Phases),
            Shape::Root(Root::Tasks) => known(name, "task", &self.scope.tasks, Root::Tasks),
            Shape::Root(Root::Artifacts) => {
                if !test {
                    self.reads.named_artifacts.insert(name.to_owned());
                }
                Ok(Shape::Member(Root::Artifacts))
            }
            Shape::Root(Root::Approvals) => {
                if !test {
                    self.reads.named_approvals.insert(name.to_owned());
                }
                Ok(Shape::Member(Root::Approvals))
            }
            Shape::Member(root) => self.field(root, name),
        }
    }

    /// The field `name` of a phase, a task, an artifact or an approval.
    fn field(&mut self, root: Root, name: &str) -> Result<Shape, ConditionFault> {
        let (what, fields): (&str, &[&str]) = match root {
            Root::Phases => ("phase", &["status", "round"]),
            Root::Tasks => ("task", &["status", "round", "attempt", "output"]),
            Root::Artifacts => ("artifact", &["version", "type", "phase", "digest"]),
            Root::Approvals => ("approval", &["status", "round"]),
            Root::Context | Root::Facts => return Ok(Shape::Unknown),
        };
        match name {
            "output" if root == Root::Tasks => {
                self.reads.outputs = true;
                Ok(Shape::Unknown)
            }
            "round" | "attempt" | "version" if fields.contains(&name) => Ok(Shape::Other("a number")),
            _ if fields.contains(&name) => Ok(Shape::Other("text")),
            _ => Err(ConditionFault::unknown(format!(
                "a condition sees no `{name}` of {} {what}; there are {}",
                if what.starts_with('a') { "an" } else { "a" },
                listed(fields, "and")
            ))),
        }
    }

    fn call(&mut self, call: &'a CallExpr) -> Result<Shape, ConditionFault> {
        match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::INDEX, [of, index]) => self.index(of, index),
            (operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT, args) => {
                for arg in args {
                    let shape = self.visit(arg)?;
                    truth(shape, "a side of `&&`, `||` or `!`")?;
                }
                Ok(Shape::Bool)
            }
            (operators::CONDITIONAL, [condition, yes, no]) => {
                let shape = self.visit(condition)?;
                truth(shape, "what stands before `?`")?;
                let (yes, no) = (self.visit(yes)?, self.visit(no)?);
                Ok(if yes == no { yes } else { Shape::Unknown })
            }
            (
                operators::EQUALS
                | operators::NOT_EQUALS
                | operators::LESS
                | operators::LESS_EQUALS
                | operators::GREATER
                | operators::GREATER_EQUALS
                | operators::IN
                | operators::NOT_STRICTLY_FALSE,
                args,
            ) => self.args(args, Shape::Bool),
            (operators::ADD, args) => {
                self.addition(args)?;
                self.args(args, Shape::Other("a sum"))
            }
            (
                operators::SUBSTRACT
                | operators::MULTIPLY
                | operators::DIVIDE
                | operators::MODULO
                | operators::NEGATE,
                args,
            ) => self.args(args, Shape::Other("a number")),
            (name, args) => self.function(name, call.target.as_deref(), args),
        }
    }

    fn args(&mut self, args: &'a [IdedExpr], shape: Shape) -> Result<Shape, ConditionFault> {
        for arg in args {
            self.visit(arg)?;
        }
        Ok(shape)
    }

    fn addition(&mut self, args: &[IdedExpr]) -> Result<(), ConditionFault> {
        // Outside of a loop each addition runs once; `filter` itself appends to its result.
        let appends = args
            .first()
            .is_some_and(|first| matches!(&first.expr, Expr::Ident(name) if name.starts_with('@')));
        if self.bound.is_empty() || appends {
            return Ok(());
        }
        self.additions += 1;
        if self.additions > MAX_ADDITIONS {
            return Err(ConditionFault::too_costly(format!(
                "a loop adds more than {MAX_ADDITIONS} times; set a fact instead"
            )));
        }
        Ok(())
    }

    fn index(&mut self, of: &'a IdedExpr, index: &'a IdedExpr) -> Result<Shape, ConditionFault> {
        let of = self.operand(of)?;
        if let Expr::Literal(LiteralValue::String(name)) = &index.expr {
            return self.member(of, name.inner(), false);
        }
        self.visit(index)?;
        match of {
            Shape::Root(Root::Facts) => {
                Err(ConditionFault::unknown("name the fact that is meant, as in facts.reviewed".to_owned()))
            }
            Shape::Root(root) if root != Root::Context => Ok(Shape::Member(root)),
            Shape::Member(root) => {
                self.reads.outputs |= root == Root::Tasks;
                Ok(Shape::Unknown)
            }
            Shape::Root(_) | Shape::Unknown => Ok(Shape::Unknown),
            Shape::Bool => Err(ConditionFault::unknown("true and false have no members")),
            // A list or text may be indexed by a number.
            Shape::Other(_) => Ok(Shape::Unknown),
        }
    }

    fn function(
        &mut self,
        name: &'a str,
        target: Option<&'a IdedExpr>,
        args: &'a [IdedExpr],
    ) -> Result<Shape, ConditionFault> {
        if !FUNCTIONS.contains(&name) {
            let offered = "all, exists, exists_one, filter, has, size, contains, startsWith, endsWith, int, double, string, timestamp and duration";
            return Err(ConditionFault::unknown(format!(
                "there is no function `{name}` here; there are {offered}"
            )));
        }
        if let Some(target) = target {
            self.operand(target)?;
        }
        for arg in args {
            self.visit(arg)?;
        }
        let (shape, fits) = match (name, target.is_some(), args.len()) {
            ("contains" | "startsWith" | "endsWith", on_value, count) => {
                (Shape::Bool, on_value && count == 1)
            }
            ("size", on_value, count) => (Shape::Other("a number"), count + usize::from(on_value) == 1),
            ("string", on_value, count) => (Shape::Other("text"), !on_value && count == 1),
            (_, on_value, count) => (Shape::Other("a number or time"), !on_value && count == 1),
        };
        if fits { Ok(shape) } else { Err(ConditionFault::invalid(usage(name))) }
    }

    fn comprehension(&mut self, comprehension: &'a ComprehensionExpr) -> Result<Shape, ConditionFault> {
        if self.operand(&comprehension.iter_range)? == Shape::Bool {
            return Err(ConditionFault::invalid("a loop goes over a list or a map"));
        }
        if builds_anew(comprehension) {
            return Err(ConditionFault::unknown(
                "there is no function `map` here; ask with all, exists or filter",
            ));
        }
        let before = self.bound.len();
        self.bound.push(&comprehension.iter_var);
        self.bound.extend(comprehension.iter_var2.as_deref());
        let step = self.visit(&comprehension.loop_cond).and_then(|_| self.visit(&comprehension.loop_step));
        let result = step.and_then(|_| self.visit(&comprehension.result));
        self.bound.truncate(before);
        let result = result?;
        Ok(match &comprehension.accu_init.expr {
            Expr::Literal(LiteralValue::Boolean(_)) => Shape::Bool,
            Expr::List(_) => Shape::Other("a list"),
            Expr::Literal(_)
            | Expr::Unspecified
            | Expr::Call(_)
            | Expr::Comprehension(_)
            | Expr::Ident(_)
            | Expr::Map(_)
            | Expr::Select(_)
            | Expr::Struct(_) => result,
        })
    }

    /// Names that begin with `@` are the macros' own.
    fn is_bound(&self, name: &str) -> bool {
        name.starts_with('@') || self.bound.contains(&name)
    }
}

fn root(name: &str) -> Option<Root> {
    ROOTS.iter().find(|(known, _)| *known == name).map(|(_, root)| *root)
}

fn known(name: &str, what: &str, ids: &BTreeSet<String>, root: Root) -> Result<Shape, ConditionFault> {
    if ids.contains(name) {
        return Ok(Shape::Member(root));
    }
    Err(ConditionFault::unknown(format!(
        "the definition has no {what} `{name}`{}",
        did_you_mean(name, ids.iter().map(String::as_str))
    )))
}

fn truth(shape: Shape, what: &str) -> Result<(), ConditionFault> {
    let is = match shape {
        Shape::Bool | Shape::Unknown => return Ok(()),
        Shape::Other(is) => is,
        Shape::Root(_) => "a map",
        Shape::Member(_) => "a map",
    };
    Err(ConditionFault::invalid(format!(
        "{what} is {is} and must be true or false; compare it with something"
    )))
}

fn literal_shape(literal: &LiteralValue) -> Shape {
    match literal {
        LiteralValue::Boolean(_) => Shape::Bool,
        LiteralValue::String(_) => Shape::Other("text"),
        LiteralValue::Bytes(_) => Shape::Other("bytes"),
        LiteralValue::Null => Shape::Other("null"),
        LiteralValue::Double(_) | LiteralValue::Int(_) | LiteralValue::UInt(_) => Shape::Other("a number"),
    }
}

fn usage(name: &str) -> String {
    match name {
        "contains" | "startsWith" | "endsWith" => {
            format!("`{name}` is called on a text with one other, as in context.name.{name}('a')")
        }
        _ => format!("`{name}` takes one value, as in {name}(context.count)"),
    }
}

/// Whether a loop makes a list of what was not in the one that it goes over: a chain of those grows exponentially.
fn builds_anew(comprehension: &ComprehensionExpr) -> bool {
    if !matches!(&comprehension.accu_init.expr, Expr::List(_)) {
        return false;
    }
    let Expr::Call(step) = &comprehension.loop_step.expr else { return true };
    let append = if step.func_name == operators::CONDITIONAL {
        let Some(Expr::Call(yes)) = step.args.get(1).map(|yes| &yes.expr) else { return true };
        yes
    } else {
        step
    };
    let Some(Expr::List(appended)) = append.args.get(1).map(|appended| &appended.expr) else { return true };
    !matches!(appended.elements.as_slice(), [only] if only.expr == Expr::Ident(comprehension.iter_var.clone()))
}
