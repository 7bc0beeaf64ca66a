//! Which rows belong to an instance, in all tables of all services.

use super::copies::Column;

/// A table that has rows of instances.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) service: &'static str,
    pub(super) name: &'static str,
    rows: Rows,
}

/// How the instance of a row is found.
#[derive(Debug)]
enum Rows {
    /// The row names it.
    Named,
    /// By a row of another table with the same tenant and this column.
    By(&'static str, &'static str),
    /// By the event that the row names.
    ByEvent,
    /// By the answer that names it.
    ByAnswer,
}

/// In an order in which rows come after those that they need, and entries of the history before what names the last one.
pub(super) const TABLES: [Table; 41] = [
    named("instance", "history"),
    named("instance", "instance"),
    named("instance", "personal"),
    named("instance", "work"),
    named("instance", "lease"),
    named("instance", "outbox"),
    named("instance", "dead_letter"),
    Table { service: "instance", name: "inbox", rows: Rows::ByEvent },
    Table { service: "instance", name: "idempotency", rows: Rows::ByAnswer },
    named("approval", "instance"),
    named("approval", "approval"),
    by("approval", "approval_event", "phasegate_approval.approval", "approval_id"),
    named("approval", "approver"),
    named("approval", "person"),
    named("approval", "approval_timer"),
    named("approval", "approval_response"),
    by("approval", "approval_moot", "phasegate_approval.approval", "approval_id"),
    named("approval", "outbox"),
    named("approval", "dead_letter"),
    Table { service: "approval", name: "inbox", rows: Rows::ByEvent },
    Table { service: "approval", name: "idempotency", rows: Rows::ByAnswer },
    named("artifact", "artifact_version"),
    named("artifact", "artifact"),
    named("artifact", "comment"),
    named("artifact", "outbox"),
    Table { service: "artifact", name: "inbox", rows: Rows::ByEvent },
    Table { service: "artifact", name: "idempotency", rows: Rows::ByAnswer },
    named("participant", "instance"),
    named("participant", "participant"),
    named("participant", "link"),
    named("participant", "fresh_link"),
    named("participant", "outbox"),
    Table { service: "participant", name: "inbox", rows: Rows::ByEvent },
    Table { service: "participant", name: "idempotency", rows: Rows::ByAnswer },
    named("notification", "instance"),
    named("notification", "instance_person"),
    named("notification", "notification"),
    by("notification", "notification_approval", "phasegate_notification.notification", "notification_id"),
    by("notification", "settled_approval", "phasegate_approval.approval", "approval_id"),
    named("notification", "outbox"),
    Table { service: "notification", name: "inbox", rows: Rows::ByEvent },
];

/// Tables that do not grow with the number of instances, or have nothing of one that waits.
pub(super) const OTHERS: [&str; 18] = [
    "instance.definition",
    "instance.queue_poll",
    "artifact.dead_letter",
    "participant.session",
    "participant.nonce",
    "participant.tenant",
    "participant.api_key",
    "participant.api_key_secret",
    "participant.dead_letter",
    "notification.dead_letter",
    "notification.idempotency",
    "definition.definition",
    "definition.team_template",
    "definition.team",
    "definition.idempotency",
    "definition.outbox",
    "definition.inbox",
    "definition.dead_letter",
];

const fn named(service: &'static str, name: &'static str) -> Table {
    Table { service, name, rows: Rows::Named }
}

const fn by(service: &'static str, name: &'static str, other: &'static str, key: &'static str) -> Table {
    Table { service, name, rows: Rows::By(other, key) }
}

impl Table {
    /// With its schema.
    pub(super) fn full_name(&self) -> String {
        format!("phasegate_{}.{}", self.service, self.name)
    }

    /// Copies out these columns of the rows of one instance, in the order in which they were written where that matters.
    pub(super) fn copy_out(&self, columns: &[String], instance: &str) -> String {
        let list: Vec<String> = columns.iter().map(|column| format!("t.{column}")).collect();
        let (list, name) = (list.join(", "), self.full_name());
        let rows = match &self.rows {
            Rows::Named => {
                let order = match self.name {
                    "history" => "order by t.sequence",
                    "outbox" => "order by t.position",
                    _ => "",
                };
                format!("from {name} t where t.instance_id = '{instance}' {order}")
            }
            Rows::By(other, key) => format!(
                "from {name} t where exists (select 1 from {other} o
                  where o.tenant_id = t.tenant_id and o.{key} = t.{key} and o.instance_id = '{instance}')"
            ),
            Rows::ByEvent => {
                let outboxes: Vec<String> = SENDERS
                    .iter()
                    .map(|sender| {
                        format!(
                            "select event_id from phasegate_{sender}.outbox where instance_id = '{instance}'"
                        )
                    })
                    .collect();
                format!("from {name} t where t.event_id in ({})", outboxes.join(" union all "))
            }
            Rows::ByAnswer => {
                format!("from {name} t where position(convert_to('{instance}', 'UTF8') in t.answer) > 0")
            }
        };
        format!("copy (select {list} {rows}) to stdout (format binary)")
    }

    /// What a column of it is.
    pub(super) fn column(&self, name: &str) -> Column {
        match (self.service, self.name, name) {
            ("instance", "history", "body") => Column::Hashed,
            ("instance", "history", "previous_hash") => Column::PreviousHash,
            ("instance", "history", "hash") => Column::OwnHash,
            ("instance", "instance", "head_hash") => Column::LastHash,
            // The history has promised these.
            ("instance", "personal", "salt" | "body") => Column::Kept,
            _ => Column::Plain,
        }
    }
}

/// Services that tell the others something.
const SENDERS: [&str; 5] = ["instance", "approval", "artifact", "participant", "notification"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_comes_before_what_remembers_its_end() {
        let place = |name: &str| TABLES.iter().position(|table| table.full_name() == name);
        assert!(place("phasegate_instance.history") < place("phasegate_instance.instance"));
    }

    #[test]
    fn rows_are_found_by_what_names_the_instance() {
        let columns = ["tenant_id".to_owned(), "event_id".to_owned()];
        let found = |name: &str| {
            let table = TABLES.iter().find(|table| table.full_name() == name);
            table.map(|table| table.copy_out(&columns, "parked-1")).unwrap_or_default()
        };
        assert!(
            found("phasegate_instance.history")
                .contains("where t.instance_id = 'parked-1' order by t.sequence")
        );
        assert!(
            found("phasegate_instance.inbox")
                .contains("phasegate_approval.outbox where instance_id = 'parked-1'")
        );
        assert!(found("phasegate_approval.approval_event").contains("o.approval_id = t.approval_id"));
    }
}
