//! Agents and humans: who they are, and who may do what.

use std::collections::BTreeMap;

use super::Checker;
use super::text::one_line;
use crate::definition::{Agent, Human, RaidRole};
use crate::draft::{AgentDraft, HumanDraft};
use crate::issue::{Path, did_you_mean};

/// Longest address that mail servers take.
const MAX_EMAIL: usize = 254;

/// Longest name of a queue.
const MAX_QUEUE: usize = 128;

/// The words for a RAID role.
pub(super) fn raid_role(word: &str) -> Option<RaidRole> {
    match word {
        "responsible" => Some(RaidRole::Responsible),
        "approver" => Some(RaidRole::Approver),
        "informed" => Some(RaidRole::Informed),
        "delegator" => Some(RaidRole::Delegator),
        _ => None,
    }
}

impl Checker<'_> {
    pub(super) fn agents(&mut self, path: &Path) -> BTreeMap<String, Agent> {
        let draft = self.draft;
        draft.agents.iter().map(|(id, agent)| (id.clone(), self.agent(&path.at(id), id, agent))).collect()
    }

    fn agent(&mut self, path: &Path, id: &str, agent: &AgentDraft) -> Agent {
        self.id(path, id);
        let queue = agent
            .queue
            .clone()
            .filter(|queue| !queue.is_empty())
            .unwrap_or_else(|| agent.template_id.clone());
        let is_queue = |queue: &str| {
            (1..=MAX_QUEUE).contains(&queue.len()) && queue.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if !is_queue(&queue) {
            let written = if agent.queue.is_some() { "queue" } else { "templateId" };
            let message = "workers find the agent by this name: write 1 to 128 visible ASCII characters";
            self.report.fault(&path.at(written), "QUEUE_INVALID", message);
        }
        self.short(&path.at("templateId"), &agent.template_id);
        self.short(&path.at("role"), &agent.role);
        self.tools(&path.at("tools"), &agent.tools);
        Agent {
            template_id: agent.template_id.clone(),
            role: agent.role.clone(),
            queue,
            tools: agent.tools.clone(),
        }
    }

    pub(super) fn humans(&mut self, path: &Path) -> BTreeMap<String, Human> {
        let draft = self.draft;
        draft.humans.iter().map(|(id, human)| (id.clone(), self.human(&path.at(id), id, human))).collect()
    }

    fn human(&mut self, path: &Path, id: &str, human: &HumanDraft) -> Human {
        self.id(path, id);
        if self.draft.agents.contains_key(id) {
            let message = format!(
                "`{id}` is an agent, too; agents and humans are assigned by one name, choose another"
            );
            self.report.fault(path, "ID_DUPLICATE", message);
        }
        if !human.id.is_empty() && human.id != id {
            let message = format!("the person stands under `{id}`; write the same here or leave it out");
            self.report.fault(&path.at("id"), "ID_INVALID", message);
        }
        self.short(&path.at("name"), &human.name);
        self.short(&path.at("role"), &human.role);
        let role = raid_role(&human.raid_role);
        if role.is_none() {
            let words = ["responsible", "approver", "informed", "delegator"];
            self.word(&path.at("raidRole"), &human.raid_role, &words);
        }
        self.repeated(&path.at("requiredApprovals"), &human.required_approvals);
        for (index, key) in human.required_approvals.iter().enumerate() {
            self.id(&path.at("requiredApprovals").at(index), key);
        }
        let email = human.email.clone().filter(|email| !email.is_empty());
        if email.as_deref().is_some_and(|email| !is_email(email)) {
            self.report.fault(
                &path.at("email"),
                "EMAIL_INVALID",
                "write one address such as name@example.com",
            );
        }
        let wanted = human.notification_preferences.clone().unwrap_or_default();
        Human {
            name: if human.name.is_empty() { id.to_owned() } else { human.name.clone() },
            role: human.role.clone(),
            raid_role: role.unwrap_or(RaidRole::Informed),
            required_approvals: human.required_approvals.clone(),
            email_wanted: wanted.email.unwrap_or(true),
            slack_wanted: wanted.slack.unwrap_or(false),
            in_app_wanted: wanted.in_app.unwrap_or(false),
            can_delegate: human.can_delegate.unwrap_or(false),
            email,
        }
    }

    /// Whom work goes up to.
    pub(super) fn escalation_path(&mut self, path: &Path) {
        let draft = self.draft;
        self.repeated(path, &draft.escalation_path);
        for (index, name) in draft.escalation_path.iter().enumerate() {
            if !self.is_somebody(name) {
                let message = format!(
                    "`{name}` is neither an agent nor a human of the definition{}",
                    self.somebody_like(name)
                );
                self.report.fault(&path.at(index), "ESCALATION_UNKNOWN", message);
            }
        }
    }

    /// People who are asked to decide: known, human, and of a role that decides.
    pub(super) fn approvers(&mut self, path: &Path, names: &[String]) {
        self.repeated(path, names);
        for (index, name) in names.iter().enumerate() {
            self.approver(&path.at(index), name, &[RaidRole::Approver]);
        }
    }

    /// One person who is asked to decide.
    pub(super) fn approver(&mut self, path: &Path, name: &str, roles: &[RaidRole]) {
        let draft = self.draft;
        let Some(human) = draft.humans.get(name) else {
            let message = if draft.agents.contains_key(name) {
                format!(
                    "`{name}` is an agent, and agents never approve; name a human whose raidRole is approver"
                )
            } else {
                let alike = did_you_mean(name, draft.humans.keys().map(String::as_str));
                format!(
                    "`{name}` is no human of the definition{}",
                    if alike.is_empty() { "; describe the person under humans".to_owned() } else { alike }
                )
            };
            self.report.fault(path, "APPROVER_INVALID", message);
            return;
        };
        // A role that cannot be read is a fault of its own.
        if raid_role(&human.raid_role).is_some_and(|role| !roles.contains(&role)) {
            let message = format!(
                "`{name}` is {} and decides nothing; make its raidRole approver or name somebody else",
                human.raid_role
            );
            self.report.fault(path, "APPROVER_INVALID", message);
        }
    }

    /// Whether `name` is an agent or a human.
    pub(super) fn is_somebody(&self, name: &str) -> bool {
        self.draft.agents.contains_key(name) || self.draft.humans.contains_key(name)
    }

    /// `; did you mean ..?` over agents and humans.
    pub(super) fn somebody_like(&self, name: &str) -> String {
        did_you_mean(name, self.draft.agents.keys().chain(self.draft.humans.keys()).map(String::as_str))
    }

    /// Notes a word that is none of those that there are.
    pub(super) fn word(&mut self, path: &Path, written: &str, words: &[&str]) {
        let words = words.join(", ");
        let message = if written.is_empty() {
            format!("it is missing; write one of {words}")
        } else {
            format!("`{}` is not known; write one of {words}", written.chars().take(64).collect::<String>())
        };
        self.report.fault(path, "ENUM_INVALID", message);
    }
}

/// Whether `text` can be an address: enough to catch what was typed into the wrong field, and what could end a header.
fn is_email(text: &str) -> bool {
    one_line(text, 3, MAX_EMAIL)
        && !text.chars().any(|c| c.is_whitespace() || matches!(c, '<' | '>' | ',' | ';' | '"' | '(' | ')'))
        && text.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty()
                && !domain.is_empty()
                && !domain.contains('@')
                && !domain.starts_with('.')
                && !domain.ends_with('.')
        })
}
