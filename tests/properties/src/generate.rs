//! Random definitions: small enough to be run to their end many times, and with everything that the rules speak of.

use phasegate_process::{Definition, Draft, validate};
use serde_json::{Map, Value, json};

use crate::chance::Chance;

/// Programs.
const AGENTS: [&str; 3] = ["a1", "a2", "a3"];

/// People who approve.
const APPROVERS: [&str; 3] = ["h1", "h2", "h3"];

/// The person who may steer.
pub const DELEGATOR: &str = "boss";

/// Names that conditions read and that plays set.
pub const FACTS: [&str; 4] = ["f1", "f2", "f3", "f4"];

/// Makes the definition of a seed; none of them has a fault.
pub fn definition(chance: &mut Chance) -> Definition {
    let written = Writer { chance, tasks: Vec::new(), keys: Vec::new() }.process();
    let checked = match Draft::from_json(written.clone()) {
        Ok(draft) => validate(&draft),
        Err(unreadable) => panic!("a generated draft is unreadable: {unreadable}\n{written:#}"),
    };
    let faults: Vec<_> = checked.faults().cloned().collect();
    match checked.definition {
        Some(definition) => definition,
        None => panic!("a generated definition has faults: {faults:?}\n{written:#}"),
    }
}

struct Writer<'a> {
    chance: &'a mut Chance,
    /// Tasks that were written so far.
    tasks: Vec<String>,
    /// Approval keys and subjects whose facts conditions may read.
    keys: Vec<String>,
}

impl Writer<'_> {
    fn process(mut self) -> Value {
        let phases = self.chance.between(1, 4);
        let mut gates = Vec::new();
        let phases: Vec<Value> = (1..=phases)
            .map(|number| {
                let id = format!("p{number}");
                let guarded = self.gates(&id, number == 1);
                let must_be_reviewed = guarded.is_empty();
                gates.extend(guarded);
                self.phase(&id, number, must_be_reviewed)
            })
            .collect();
        let most = self.chance.below(4);
        let path = self.chance.some(&[AGENTS[2], DELEGATOR, AGENTS[1]], most);
        let agents: Map<String, Value> = AGENTS
            .iter()
            .map(|id| ((*id).to_owned(), json!({"templateId": format!("q-{id}"), "role": "worker"})))
            .collect();
        json!({
            "id": "proc",
            "name": "Process",
            "version": "1.0.0",
            "phases": phases,
            "gates": gates,
            "agents": agents,
            "humans": {
                "h1": {"role": "it", "raidRole": "approver"},
                "h2": {"role": "ciso", "raidRole": "approver"},
                "h3": {"role": "legal", "raidRole": "approver"},
                "boss": {"role": "support", "raidRole": "delegator"},
            },
            "escalationPath": path,
        })
    }

    fn phase(&mut self, id: &str, order: usize, must_be_reviewed: bool) -> Value {
        let mut phase = json!({
            "id": id,
            "name": id,
            "order": order * 10,
            "parallelExecution": self.chance.percent(60),
            "maxRounds": self.chance.between(1, 3),
        });
        let entry = self.conditions(15);
        let most = if self.chance.percent(8) { 0 } else { self.chance.between(1, 3) };
        let first = self.tasks.len();
        let tasks: Vec<Value> = (0..most).map(|_| self.task(first)).collect();
        let is_reviewed = self.chance.percent(40) || (tasks.is_empty() && must_be_reviewed);
        let approvers = if is_reviewed { self.approvers() } else { Vec::new() };
        if is_reviewed {
            self.keys.push(id.to_owned());
        }
        phase["requiredApprovals"] = json!(approvers);
        phase["tasks"] = json!(tasks);
        phase["entryConditions"] = json!(entry);
        phase["exitConditions"] = json!(self.conditions(35));
        phase
    }

    fn task(&mut self, first_of_phase: usize) -> Value {
        let id = format!("t{}", self.tasks.len() + 1);
        let most = self.chance.below(3);
        let dependencies = if self.chance.percent(50) {
            self.chance.some(&self.tasks.clone(), most)
        } else {
            let own = self.tasks.get(first_of_phase..).unwrap_or_default().to_vec();
            self.chance.some(&own, most)
        };
        let is_reviewed = self.chance.percent(35);
        let approvers = if is_reviewed { self.approvers() } else { Vec::new() };
        if is_reviewed {
            self.keys.push(id.clone());
        }
        let artifacts = if self.chance.percent(35) { vec![format!("k-{id}")] } else { Vec::new() };
        let assignee = if self.chance.percent(4) { DELEGATOR } else { self.agent() };
        let mut task = json!({
            "id": id,
            "name": id,
            "assignee": assignee,
            "dependencies": dependencies,
            "requiredApprovals": approvers,
            "artifacts": artifacts,
            "maxRounds": self.chance.between(1, 3),
        });
        if self.chance.percent(80) {
            task["errorHandling"] = self.error_handling();
        }
        self.tasks.push(id);
        task
    }

    fn agent(&mut self) -> &'static str {
        AGENTS[self.chance.below(AGENTS.len())]
    }

    fn approvers(&mut self) -> Vec<&'static str> {
        let most = self.chance.between(1, 2);
        self.chance.some(&APPROVERS, most)
    }

    fn error_handling(&mut self) -> Value {
        let kinds =
            ["retry", "retry_with_escalation", "retry_with_escalation", "escalate", "skip", "fail_process"];
        let mut handling = json!({
            "taskFailure": kinds[self.chance.below(kinds.len())],
            "maxRetries": self.chance.below(3),
            "retryDelay": "2s",
            "maxRetryDelay": "5s",
        });
        if self.chance.percent(50) {
            handling["escalateTo"] = json!(if self.chance.percent(50) { DELEGATOR } else { self.agent() });
        }
        handling
    }

    /// Gates before a phase. Before the first one nobody can be asked yet.
    fn gates(&mut self, phase: &str, is_first: bool) -> Vec<Value> {
        let mut gates = Vec::new();
        let most = if is_first { usize::from(self.chance.percent(20)) } else { self.chance.below(3) };
        for number in 1..=most {
            let id = format!("g-{phase}-{number}");
            let kind = self.chance.below(100);
            let mut gate = json!({"id": id, "name": id, "beforePhase": phase});
            if kind < 55 && !is_first {
                gate["type"] = json!("approval");
                gate["approvers"] = json!(self.approvers());
                self.keys.push(id);
            } else if kind < 80 {
                gate["type"] = json!("condition");
                gate["condition"] = json!(self.condition());
            } else {
                gate["type"] = json!("manual");
            }
            gates.push(gate);
        }
        gates
    }

    fn conditions(&mut self, percent: usize) -> Vec<String> {
        let mut conditions = Vec::new();
        while conditions.len() < 2 && self.chance.percent(percent) {
            conditions.push(self.condition());
        }
        conditions
    }

    /// Mostly names of facts, as most conditions are; sometimes an expression, which may have no answer.
    fn condition(&mut self) -> String {
        let fact = FACTS[self.chance.below(FACTS.len())];
        let kind = self.chance.below(100);
        let key = self.chance.one(&self.keys).cloned();
        match (kind, key) {
            (0..55, _) => fact.to_owned(),
            (55..65, _) => format!("!{fact}"),
            (65..80, _) => "all_tasks_complete".to_owned(),
            (80..96, Some(key)) => format!("{}_approved", key.replace('-', "_")),
            (96..98, _) => "context.size > 2".to_owned(),
            (98.., Some(key)) => format!("approvals['{key}'].status == 'approved'"),
            (_, None) => format!("{fact} && all_tasks_complete"),
        }
    }
}
