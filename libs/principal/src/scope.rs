//! What a key or a role lets its holder call, and which call needs which of it.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use phasegate_proto_json::pool;
use phasegate_rpc_error::{Kind, Refusal};
use prost_reflect::Value;
use serde::{Deserialize, Serialize};

use crate::{Caller, Principal};

/// The option of a method that names its scope.
const OPTION: &str = "phasegate.auth.v1.scope";
/// What the option says of a method that every known caller may call.
const EVERYBODY: &str = "any";
/// Packages that are for services among themselves.
const INTERNAL_PACKAGES: &str = "phasegate.internal.";

macro_rules! scopes {
    ($($(#[$doc:meta])* $name:ident = $text:literal),+ $(,)?) => {
        /// Scopes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Scope {
            $($(#[$doc])* #[serde(rename = $text)] $name),+
        }

        impl Scope {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// As it is written.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

scopes! {
    /// Read definitions, templates and teams.
    DefinitionsRead = "definitions:read",
    /// Write drafts, templates and teams.
    DefinitionsWrite = "definitions:write",
    /// Let a definition loose.
    DefinitionsPublish = "definitions:publish",
    /// Read instances and follow what happens to them.
    InstancesRead = "instances:read",
    /// Start instances.
    InstancesStart = "instances:start",
    /// Change, pause, move and cancel instances.
    InstancesOperate = "instances:operate",
    /// Move instances on although something is in the way.
    InstancesForce = "instances:force",
    /// Read tasks.
    TasksRead = "tasks:read",
    /// Retry and skip tasks.
    TasksOperate = "tasks:operate",
    /// Do work of the queues that the key names.
    WorkersPoll = "workers:poll",
    /// Read requests for approval.
    ApprovalsRead = "approvals:read",
    /// Ask for approval.
    ApprovalsRequest = "approvals:request",
    /// Decide for the participant whom the key names.
    ApprovalsDecide = "approvals:decide",
    /// Take requests back.
    ApprovalsManage = "approvals:manage",
    /// Read artifacts.
    ArtifactsRead = "artifacts:read",
    /// Store artifacts.
    ArtifactsWrite = "artifacts:write",
    /// Read comments.
    CommentsRead = "comments:read",
    /// Write comments.
    CommentsWrite = "comments:write",
    /// Read who takes part.
    ParticipantsRead = "participants:read",
    /// Make magic links.
    LinksCreate = "links:create",
    /// Withdraw magic links.
    LinksRevoke = "links:revoke",
    /// Read what was sent to people.
    NotificationsRead = "notifications:read",
    /// Read and prove the record.
    AuditRead = "audit:read",
    /// Everything, and the keys.
    Admin = "admin",
}

/// Who may call a method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Every known caller.
    Known,
    /// Callers with one of these scopes.
    OneOf(Vec<Scope>),
}

/// Why a known caller may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// The credential lacks a scope.
    #[error("the credential of the call lacks the scope {}", .0.as_str())]
    ScopeMissing(Scope),
    /// An agent wants to decide.
    #[error("an agent may not decide")]
    HumanRequired,
    /// Somebody asks what only our services ask each other.
    #[error("the method is between services, and the caller is of kind {0}")]
    OurServicesOnly(&'static str),
    /// An agent wants to change something without the lease of a task.
    #[error("an agent needs the lease of a task")]
    LeaseMissing,
}

// === impl Scope ===

impl Scope {
    /// The scope that is written so.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|scope| scope.as_str() == text)
    }
}

// === impl Need ===

impl Need {
    /// What a method needs that is called at this path. Nothing for a path that is no public method's.
    pub fn of(path: &str) -> Option<&'static Self> {
        static NEEDS: OnceLock<BTreeMap<String, Need>> = OnceLock::new();
        NEEDS.get_or_init(needs).get(path)
    }
}

/// Whether a path is that of a method for services among themselves.
pub fn is_internal(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|path| path.starts_with(INTERNAL_PACKAGES))
}

fn needs() -> BTreeMap<String, Need> {
    let Some(option) = pool().get_extension_by_name(OPTION) else { return BTreeMap::new() };
    let methods = pool().services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let needs = methods.filter_map(|method| {
        let options = method.options();
        let said = options.get_extension(&option);
        let said: Vec<&str> = said.as_list()?.iter().filter_map(Value::as_str).collect();
        let need = match said.as_slice() {
            [] => return None,
            [EVERYBODY] => Need::Known,
            // One that is not known lets nobody in.
            scopes => Need::OneOf(scopes.iter().filter_map(|scope| Scope::parse(scope)).collect()),
        };
        Some((format!("/{}/{}", method.parent_service().full_name(), method.name()), need))
    });
    needs.collect()
}

// === impl Principal ===

impl Principal {
    /// Whether the caller has a scope. Our own services need none, and of people their link says what they may.
    pub fn has(&self, scope: Scope) -> bool {
        match self.kind {
            Caller::System => true,
            Caller::Participant => scope != Scope::Admin,
            Caller::Operator | Caller::Service => {
                self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
            }
        }
    }

    /// Refuses a caller who lacks each of some scopes, naming the first.
    pub fn needs_one_of(&self, scopes: &[Scope]) -> Result<(), Forbidden> {
        let mut outcomes = scopes.iter().map(|scope| self.needs(*scope));
        let first = outcomes.next().unwrap_or(Err(Forbidden::ScopeMissing(Scope::Admin)));
        if first.is_err() && outcomes.any(|outcome| outcome.is_ok()) { Ok(()) } else { first }
    }

    /// Refuses a caller who lacks a scope. Agents decide nothing, whatever their keys say.
    pub fn needs(&self, scope: Scope) -> Result<(), Forbidden> {
        if scope == Scope::ApprovalsDecide && self.is_agent() {
            return Err(Forbidden::HumanRequired);
        }
        if self.has(scope) { Ok(()) } else { Err(Forbidden::ScopeMissing(scope)) }
    }
}

impl Refusal for Forbidden {
    fn kind(&self) -> Kind {
        Kind::Forbidden
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::ScopeMissing(_) => "SCOPE_MISSING",
            Self::HumanRequired => "HUMAN_REQUIRED",
            Self::OurServicesOnly(_) => "ROLE_FORBIDDEN",
            Self::LeaseMissing => "LEASE_MISSING",
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::ScopeMissing(scope) => vec![("scope", scope.as_str().to_owned())],
            Self::OurServicesOnly(role) => vec![("role", (*role).to_owned())],
            Self::HumanRequired | Self::LeaseMissing => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_public_method_says_what_it_needs() {
        for service in pool().services().filter(|service| service.package_name().starts_with("phasegate.")) {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                assert_eq!(Need::of(&path).is_none(), is_internal(&path), "{path}");
            }
        }
        assert_eq!(
            Need::of("/phasegate.instance.v1.InstanceService/StartInstance"),
            Some(&Need::OneOf(vec![Scope::InstancesStart]))
        );
        assert_eq!(Need::of("/phasegate.instance.v1.InstanceService/Nonsense"), None);
    }

    #[test]
    fn every_scope_is_of_use() {
        let needed: Vec<Scope> = needs()
            .into_values()
            .flat_map(|need| match need {
                Need::Known => Vec::new(),
                Need::OneOf(scopes) => scopes,
            })
            .collect();
        for scope in Scope::ALL {
            // The one that a field of AdvancePhase needs.
            let is_used = needed.contains(scope) || *scope == Scope::InstancesForce;
            assert!(is_used, "{}", scope.as_str());
            assert_eq!(Scope::parse(scope.as_str()), Some(*scope));
        }
    }

    #[test]
    fn nobody_with_a_key_may_what_it_does_not_say() {
        let mut caller = Principal { scopes: Vec::new(), ..Principal::dev_operator() };
        assert_eq!(caller.needs(Scope::AuditRead), Err(Forbidden::ScopeMissing(Scope::AuditRead)));
        caller.scopes = vec![Scope::AuditRead];
        assert!(caller.has(Scope::AuditRead) && !caller.has(Scope::Admin) && !caller.has(Scope::TasksRead));
        caller.scopes = vec![Scope::Admin];
        assert!(Scope::ALL.iter().all(|scope| caller.has(*scope)));
        caller.queues = vec!["sso".to_owned()];
        assert_eq!(caller.needs(Scope::ApprovalsDecide), Err(Forbidden::HumanRequired));
        caller.kind = Caller::Service;
        caller.scopes = Vec::new();
        assert!(!caller.has(Scope::InstancesRead));
    }
}
