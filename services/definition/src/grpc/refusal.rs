//! Every promise of this service about refusing, on one page.

use std::time::Duration;

use phasegate_process::Issue;
use phasegate_rpc_error::{Kind, Refusal, Violation};

use crate::app::{Error, Subject};

/// Bytes of findings that an error carries. It travels in headers, and some clients take no more than 8 KiB of them
/// in base64; the check without storing tells of all.
const FINDING_BYTES_MAX: usize = 4 * 1024;

impl Refusal for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::ValidationFailed { .. } | Self::OnboardingInvalid { .. } => Kind::Invalid,
            Self::RequestId(refused) => refused.kind(),
            Self::Invalid(invalid) => invalid.kind(),
            Self::TooLarge { .. } => Kind::Exhausted,
            Self::Immutable(_) | Self::TemplateExists { .. } => Kind::Exists,
            Self::ProcessNotFound { .. } | Self::TemplateNotFound { .. } | Self::TeamNotFound { .. } => {
                Kind::NotFound
            }
            Self::NotStartable { .. } => Kind::Precondition,
            Self::RoleForbidden => Kind::Forbidden,
            Self::Overtaken => Kind::Unavailable,
            Self::Store(error) if error.is_transient() || error.is_race() => Kind::Unavailable,
            Self::Store(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::ValidationFailed { .. } => "VALIDATION_FAILED",
            Self::TooLarge { subject: Subject::Definition, .. } => "DEFINITION_TOO_LARGE",
            Self::TooLarge { subject: Subject::Template, .. } => "TEAM_TEMPLATE_TOO_LARGE",
            Self::Immutable(_) => "VERSION_IMMUTABLE",
            Self::ProcessNotFound { .. } => "PROCESS_NOT_FOUND",
            Self::NotStartable { .. } => "DEFINITION_NOT_STARTABLE",
            Self::TemplateNotFound { .. } => "TEAM_TEMPLATE_NOT_FOUND",
            Self::TemplateExists { .. } => "ALREADY_EXISTS",
            Self::OnboardingInvalid { .. } => "ONBOARDING_INVALID",
            Self::TeamNotFound { .. } => "TEAM_NOT_FOUND",
            Self::RoleForbidden => "ROLE_FORBIDDEN",
            Self::Invalid(invalid) => invalid.reason(),
            Self::RequestId(refused) => refused.reason(),
            Self::Overtaken => "STORE_UNAVAILABLE",
            Self::Store(error) if error.is_transient() || error.is_race() => "STORE_UNAVAILABLE",
            Self::Store(_) => "INTERNAL",
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::ValidationFailed { faults, .. } => vec![("issue_count", faults.len().to_string())],
            Self::TooLarge { limits, .. } => limits.first().map(limit).unwrap_or_default(),
            Self::Immutable(immutable) => vec![
                ("process_id", immutable.process_id.clone()),
                ("version", immutable.version.clone()),
                ("published_digest", immutable.published.clone()),
                ("digest", immutable.given.clone()),
            ],
            Self::ProcessNotFound { process_id, version } | Self::NotStartable { process_id, version } => {
                vec![("process_id", process_id.clone()), ("version", version.clone())]
            }
            Self::TemplateNotFound { id } => vec![("team_template_id", id.clone())],
            Self::TemplateExists { id } => vec![("resource", "team_template".to_owned()), ("id", id.clone())],
            Self::OnboardingInvalid { id, faults } => {
                vec![("team_template_id", id.clone()), ("issue_count", faults.len().to_string())]
            }
            Self::TeamNotFound { id } => vec![("team_id", id.clone())],
            Self::Invalid(invalid) => invalid.metadata(),
            Self::RequestId(refused) => refused.metadata(),
            Self::RoleForbidden | Self::Overtaken | Self::Store(_) => Vec::new(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        if let Self::RequestId(refused) = self {
            return refused.retry_after();
        }
        (self.kind() == Kind::Unavailable).then_some(Duration::from_secs(1))
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Self::ValidationFailed { faults, .. } | Self::TooLarge { limits: faults, .. } => {
                fitting(faults.iter().map(violation))
            }
            Self::OnboardingInvalid { faults, .. } => fitting(faults.iter().map(|fault| Violation {
                field: format!("/onboarding{}", fault.path),
                code: "ONBOARDING_INVALID".to_owned(),
                message: fault.message.clone(),
            })),
            Self::Invalid(invalid) => invalid.violations(),
            Self::Immutable(_)
            | Self::ProcessNotFound { .. }
            | Self::NotStartable { .. }
            | Self::TemplateNotFound { .. }
            | Self::TemplateExists { .. }
            | Self::TeamNotFound { .. }
            | Self::RoleForbidden
            | Self::RequestId(_)
            | Self::Overtaken
            | Self::Store(_) => Vec::new(),
        }
    }
}

/// What there is too much of, and how much is allowed.
fn limit(issue: &Issue) -> Vec<(&'static str, String)> {
    let max = issue.max.map(|max| ("max", max.to_string()));
    std::iter::once(("limit", issue.path.clone())).chain(max).collect()
}

fn violation(issue: &Issue) -> Violation {
    Violation { field: issue.path.clone(), code: issue.code.to_owned(), message: issue.message.clone() }
}

/// As many as fit, and one at least.
fn fitting(violations: impl Iterator<Item = Violation>) -> Vec<Violation> {
    let mut bytes = 0;
    let mut shown = Vec::new();
    for violation in violations {
        bytes += violation.field.len() + violation.code.len() + violation.message.len();
        if bytes > FINDING_BYTES_MAX && !shown.is_empty() {
            break;
        }
        shown.push(violation);
    }
    shown
}
