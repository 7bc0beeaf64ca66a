//! A person of an instance. This service owns names and addresses; others keep ids.

use phasegate_clock::Timestamp;
use phasegate_id::ParticipantId;

/// Responsibility of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaidRole {
    /// Does the work.
    Responsible,
    /// Decides what it is asked.
    Approver,
    /// Is told, and decides nothing.
    Informed,
    /// Assigns and reassigns.
    Delegator,
}

/// How a person wants to be told; nothing said means the channel's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Preferences {
    /// By e-mail.
    pub email: Option<bool>,
    /// By Slack.
    pub slack: Option<bool>,
    /// In the inbox.
    pub in_app: Option<bool>,
}

/// A person of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Id in the definition.
    pub id: ParticipantId,
    /// Name to show.
    pub name: String,
    /// Address; empty where there is none.
    pub email: String,
    /// What the person is, free text.
    pub role: String,
    /// Responsibility.
    pub raid_role: RaidRole,
    /// A customer's person, without an account.
    pub external: bool,
    /// Approval keys that the person answers for.
    pub required_approvals: Vec<String>,
    /// How the person wants to be told.
    pub preferences: Preferences,
    /// May hand an approval on.
    pub can_delegate: bool,
    /// When the person was added.
    pub created_at: Timestamp,
}

// === impl RaidRole ===

impl RaidRole {
    /// As it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Responsible => "responsible",
            Self::Approver => "approver",
            Self::Informed => "informed",
            Self::Delegator => "delegator",
        }
    }

    /// From what is stored.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Responsible, Self::Approver, Self::Informed, Self::Delegator]
            .into_iter()
            .find(|role| role.as_str() == text)
    }
}

// === impl Person ===

impl Person {
    /// Whether an address that a caller names is the person's. Mail hosts ignore case in domains and, in practice,
    /// everywhere; blanks around it are a typing matter.
    pub fn has_address(&self, address: &str) -> bool {
        self.email.eq_ignore_ascii_case(address.trim())
    }

    /// The address as a stranger with the genuine token may see it: enough to recognise one's own.
    pub fn masked_address(&self) -> String {
        match self.email.split_once('@') {
            Some((name, domain)) => {
                format!("{}***@{domain}", name.chars().next().map(String::from).unwrap_or_default())
            }
            None => String::new(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn roles_are_stored_by_name() {
        for role in [RaidRole::Responsible, RaidRole::Approver, RaidRole::Informed, RaidRole::Delegator] {
            assert_eq!(RaidRole::parse(role.as_str()), Some(role));
        }
        assert_eq!(RaidRole::parse("boss"), None);
    }

    #[test]
    fn addresses_compare_without_case_and_show_little() {
        let person = person();
        assert!(person.has_address("it-admin@acme.com"));
        assert!(person.has_address(" IT-Admin@ACME.com "));
        assert!(!person.has_address("ciso@acme.com"));
        assert!(!person.has_address(""));
        assert_eq!(person.masked_address(), "i***@acme.com");
        assert_eq!(Person { email: String::new(), ..person }.masked_address(), "");
    }

    /// An external approver with an address.
    pub(crate) fn person() -> Person {
        Person {
            id: ParticipantId::trusted("customer_it_admin"),
            name: "John Smith".into(),
            email: "it-admin@acme.com".into(),
            role: "IT administrator".into(),
            raid_role: RaidRole::Approver,
            external: true,
            required_approvals: vec!["sso_config_review".into()],
            preferences: Preferences::default(),
            can_delegate: false,
            created_at: Timestamp::from_micros(0),
        }
    }
}
