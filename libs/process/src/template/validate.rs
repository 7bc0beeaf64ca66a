//! Checks of a team template: all faults and warnings at once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{TeamAgentDraft, TeamDraft, slug};
use crate::duration::parse_duration;
use crate::issue::{Issue, Path, Report, Severity, did_you_mean};
use crate::schema::{Schema, depth};
use crate::validate::{free_text, is_id, one_line};

/// Largest template, as canonical JSON.
const MAX_BYTES: usize = 1024 * 1024;
const MAX_AGENTS: usize = 100;
const MAX_RULES: usize = 100;
const MAX_TOOLS: usize = 100;
/// Longest instructions, in bytes.
const MAX_PROMPT: usize = 64 * 1024;
/// Deepest settings of a tool.
const MAX_DEPTH: usize = 32;
const TOO_LARGE: &str = "TEAM_TEMPLATE_TOO_LARGE";

/// Whoever of the process's humans it concerns.
const EXTERNAL: &str = "external_participant";

const ACTIONS: [&str; 5] = ["escalate", "request_approval", "delegate", "notify", "pause"];
const PRIORITIES: [&str; 4] = ["low", "normal", "high", "urgent"];
const MODES: [&str; 4] = ["hierarchical", "sequential", "parallel", "collaborative"];

/// What checking a template gave.
#[derive(Debug, Clone)]
pub struct TemplateChecked {
    /// Faults first, then warnings; at most 100.
    pub issues: Vec<Issue>,
}

impl TemplateChecked {
    /// Whether it may be stored.
    pub fn is_sound(&self) -> bool {
        self.issues.iter().all(|issue| issue.severity == Severity::Warning)
    }

    /// Whether it was refused for its size.
    pub fn is_too_large(&self) -> bool {
        self.issues.first().is_some_and(|issue| issue.code == TOO_LARGE)
    }
}

/// Checks a template; reports every fault and warning at once. An empty id is one that will be made from the name.
pub fn validate_template(draft: &TeamDraft) -> TemplateChecked {
    let mut checker = Checker { draft, agents: BTreeMap::new(), report: Report::default() };
    checker.limits();
    if !checker.report.has_faults() {
        checker.header();
        checker.agents();
        checker.hierarchy();
        checker.orchestration();
        checker.rules();
    }
    TemplateChecked { issues: checker.report.finish() }
}

struct Checker<'a> {
    draft: &'a TeamDraft,
    agents: BTreeMap<&'a str, &'a TeamAgentDraft>,
    report: Report,
}

impl<'a> Checker<'a> {
    fn limits(&mut self) {
        let draft = self.draft;
        let root = Path::root();
        self.at_most(&root, draft.canonical().len(), MAX_BYTES, "bytes");
        self.at_most(&root.at("agents"), draft.agents.len(), MAX_AGENTS, "agents");
        self.at_most(&root.at("interactionRules"), draft.interaction_rules.len(), MAX_RULES, "rules");
        for (index, agent) in draft.agents.iter().enumerate() {
            let path = root.at("agents").at(index);
            self.at_most(&path.at("systemPrompt"), agent.system_prompt.len(), MAX_PROMPT, "bytes");
            self.at_most(&path.at("tools"), agent.tools.len(), MAX_TOOLS, "tools");
            for (index, tool) in agent.tools.iter().enumerate() {
                let deepest =
                    tool.config.iter().flat_map(|config| config.values()).map(|value| depth(value, 1)).max();
                self.at_most(
                    &path.at("tools").at(index).at("config"),
                    deepest.unwrap_or_default(),
                    MAX_DEPTH,
                    "levels",
                );
            }
        }
    }

    fn at_most(&mut self, path: &Path, count: usize, most: usize, what: &str) {
        if count > most {
            let message = format!("there are {count} {what}, and {most} are allowed; shorten it");
            self.report.too_large(path, TOO_LARGE, message, most);
        }
    }

    fn header(&mut self) {
        let draft = self.draft;
        let root = Path::root();
        if !one_line(&draft.name, 1, 200) {
            self.report.fault(
                &root.at("name"),
                "NAME_INVALID",
                "write a name of one line, 1 to 200 characters",
            );
        } else if draft.id.is_empty() && slug(&draft.name).is_none() {
            let message =
                "no id can be made from this name; write one of lower-case letters, digits, _ and -";
            self.report.fault(&root.at("id"), "ID_INVALID", message);
        }
        if !draft.id.is_empty() {
            self.id(&root.at("id"), &draft.id, "ID_INVALID");
        }
        self.short(&root.at("category"), &draft.category);
        self.text(&root.at("description"), &draft.description);
        if let Some(schema) = &draft.shared_onboarding
            && let Err(unusable) = Schema::compile(&Value::Object(schema.clone()))
        {
            let path = root.at("sharedOnboarding").under(&unusable.path);
            self.report.fault(&path, "SCHEMA_INVALID", format!("the schema {}", unusable.message));
        }
    }

    fn agents(&mut self) {
        let draft = self.draft;
        let path = Path::root().at("agents");
        if draft.agents.is_empty() {
            self.report.fault(&path, "AGENTS_EMPTY", "there is no agent; describe at least one");
        }
        for (index, agent) in draft.agents.iter().enumerate() {
            let path = path.at(index);
            self.id(&path.at("id"), &agent.id, "ID_INVALID");
            if self.agents.insert(&agent.id, agent).is_some() {
                let message = format!("there is an agent `{}` already; choose another id", agent.id);
                self.report.fault(&path.at("id"), "ID_DUPLICATE", message);
            }
            if !one_line(&agent.name, 1, 200) {
                self.report.fault(
                    &path.at("name"),
                    "NAME_INVALID",
                    "write a name of one line, 1 to 200 characters",
                );
            }
            self.short(&path.at("role"), &agent.role);
            self.text(&path.at("systemPrompt"), &agent.system_prompt);
            for (index, tool) in agent.tools.iter().enumerate() {
                if !one_line(&tool.name, 1, 200) {
                    let message = "write the name of a tool, one line of 1 to 200 characters";
                    self.report.fault(&path.at("tools").at(index).at("name"), "TEXT_INVALID", message);
                }
            }
        }
    }

    fn hierarchy(&mut self) {
        let draft = self.draft;
        for (index, agent) in draft.agents.iter().enumerate() {
            let Some(hierarchy) = &agent.hierarchy else { continue };
            let path = Path::root().at("agents").at(index).at("hierarchy");
            if hierarchy.level < 0 {
                self.report.fault(&path.at("level"), "HIERARCHY_INVALID", "write 1 for the top, or more");
            }
            self.names(&path.at("subordinates"), &hierarchy.subordinates, "HIERARCHY_INVALID");
            if let Some(above) = hierarchy.reports_to.as_deref().filter(|above| !above.is_empty()) {
                self.named(&path.at("reportsTo"), above, "HIERARCHY_INVALID");
            }
            if !hierarchy.subordinates.is_empty() && !hierarchy.can_delegate {
                let message =
                    "the agent has subordinates and may not delegate; set canDelegate or remove them";
                self.report.warning(&path.at("canDelegate"), "HIERARCHY_INCONSISTENT", message);
            }
            for (index, name) in hierarchy.subordinates.iter().enumerate() {
                let above = self
                    .agents
                    .get(name.as_str())
                    .and_then(|agent| agent.hierarchy.as_ref()?.reports_to.as_deref());
                if above.is_some_and(|above| above != agent.id) {
                    let message = format!(
                        "`{name}` reports to somebody else; make its reportsTo `{}` or remove it here",
                        agent.id
                    );
                    self.report.warning(
                        &path.at("subordinates").at(index),
                        "HIERARCHY_INCONSISTENT",
                        message,
                    );
                }
            }
        }
        self.hierarchy_cycles();
    }

    /// Work that goes up must arrive somewhere.
    fn hierarchy_cycles(&mut self) {
        for (index, agent) in self.draft.agents.iter().enumerate() {
            let mut trail = vec![agent.id.as_str()];
            let mut above = self.above(&agent.id);
            while let Some(name) = above.filter(|name| !trail.contains(name)) {
                trail.push(name);
                above = self.above(name);
            }
            // Each cycle is noted at the first of its members by name, so once.
            if above == Some(agent.id.as_str()) && trail.iter().all(|name| agent.id.as_str() <= *name) {
                trail.push(&agent.id);
                let path = Path::root().at("agents").at(index).at("hierarchy").at("reportsTo");
                let message = format!(
                    "agents report to each other: {}; let one of them report to nobody",
                    trail.join(" -> ")
                );
                self.report.fault(&path, "HIERARCHY_CYCLE", message);
            }
        }
    }

    fn above(&self, name: &str) -> Option<&'a str> {
        self.agents.get(name)?.hierarchy.as_ref()?.reports_to.as_deref()
    }

    fn orchestration(&mut self) {
        let Some(orchestration) = &self.draft.orchestration else { return };
        let path = Path::root().at("orchestration");
        if !orchestration.mode.is_empty() {
            self.word(&path.at("mode"), &orchestration.mode, &MODES, "ENUM_INVALID");
        }
        let entry = orchestration.entry_agent_id.as_str();
        if entry.is_empty() {
            if matches!(orchestration.mode.as_str(), "" | "hierarchical") {
                let message = "nobody is told first; name the agent at the top";
                self.report.warning(&path.at("entryAgentId"), "ENTRY_AGENT_MISSING", message);
            }
        } else if !self.agents.contains_key(entry) {
            let message = format!("`{entry}` is no agent of the template{}", self.alike(entry));
            self.report.fault(&path.at("entryAgentId"), "ENTRY_AGENT_UNKNOWN", message);
        }
        let path = path.at("escalationPath");
        self.names(&path, &orchestration.escalation_path, "HIERARCHY_INVALID");
    }

    fn rules(&mut self) {
        const CODE: &str = "RULE_INVALID";
        let mut seen = BTreeSet::new();
        for (index, rule) in self.draft.interaction_rules.iter().enumerate() {
            let path = Path::root().at("interactionRules").at(index);
            self.id(&path.at("id"), &rule.id, CODE);
            if !seen.insert(&rule.id) {
                let message = format!("there is a rule `{}` already; choose another id", rule.id);
                self.report.fault(&path.at("id"), CODE, message);
            }
            if !is_id(&rule.trigger) || rule.trigger.contains('-') {
                let message =
                    "write an event of lower-case letters, digits and _, such as phase_gate_reached";
                self.report.fault(&path.at("trigger"), CODE, message);
            }
            self.word(&path.at("action"), &rule.action, &ACTIONS, CODE);
            if rule.target != EXTERNAL {
                self.named(&path.at("target"), &rule.target, CODE);
            }
            if !rule.priority.is_empty() {
                self.word(&path.at("priority"), &rule.priority, &PRIORITIES, CODE);
            }
            let timeout = rule.timeout.as_deref().filter(|timeout| !timeout.is_empty());
            if let Some(Err(fault)) = timeout.map(parse_duration) {
                self.report.fault(&path.at("timeout"), CODE, format!("the text {fault}"));
            }
        }
    }

    fn id(&mut self, path: &Path, id: &str, code: &'static str) {
        if !is_id(id) {
            let message = "write a lower-case letter, then at most 62 lower-case letters, digits, _ or -";
            self.report.fault(path, code, message);
        }
    }

    fn short(&mut self, path: &Path, text: &str) {
        if !one_line(text, 0, 200) {
            self.report.fault(path, "TEXT_INVALID", "write one line of at most 200 characters");
        }
    }

    fn text(&mut self, path: &Path, text: &str) {
        if !free_text(text) {
            let message =
                "write at most 65536 bytes, without control characters other than line breaks and tabs";
            self.report.fault(path, "TEXT_INVALID", message);
        }
    }

    fn word(&mut self, path: &Path, written: &str, words: &[&str], code: &'static str) {
        if !words.contains(&written) {
            let shown: String = written.chars().take(64).collect();
            self.report.fault(
                path,
                code,
                format!("`{shown}` is not known; write one of {}", words.join(", ")),
            );
        }
    }

    /// Names in a list, each once.
    fn names(&mut self, path: &Path, names: &[String], code: &'static str) {
        let mut seen = BTreeSet::new();
        for (index, name) in names.iter().enumerate() {
            if !seen.insert(name) {
                let message = format!("`{name}` stands here twice, so work would go round; remove one");
                self.report.fault(&path.at(index), "HIERARCHY_CYCLE", message);
            }
            self.named(&path.at(index), name, code);
        }
    }

    /// A name that may be described elsewhere.
    fn named(&mut self, path: &Path, name: &str, code: &'static str) {
        if !is_id(name) {
            self.id(path, name, code);
        } else if !self.agents.contains_key(name) {
            let alike = self.alike(name);
            let message = format!(
                "the template does not describe `{name}`: an agent or human of the process must have this id{alike}"
            );
            self.report.warning(path, "AGENT_NOT_DESCRIBED", message);
        }
    }

    fn alike(&self, name: &str) -> String {
        did_you_mean(name, self.agents.keys().copied())
    }
}

#[cfg(test)]
mod tests;
