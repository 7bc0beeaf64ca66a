//! What the service does: checks what an author wrote, lets the domain decide, and writes the change with its answer in
//! one transaction.

pub mod definition;
pub mod template;

use phasegate_clock::SharedClock;
use phasegate_id::TenantId;
use phasegate_idempotency::{Failure, Refused};
use phasegate_principal::{Caller, Principal};
use phasegate_process::{Issue, SchemaFault};
use phasegate_rpc_error::Invalid;

use crate::domain::{Author, Immutable};
use crate::store::{self, Store};

pub use crate::store::Error as StoreError;
pub use crate::store::definition::Newest;

/// The service behind its doors.
#[derive(Debug, Clone)]
pub struct App {
    store: Store,
    clock: SharedClock,
}

/// What a caller wrote about: for messages that definitions and templates share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A process definition.
    Definition,
    /// A team template.
    Template,
}

/// How a request of this service is told from its repetition.
pub type Once<T> = phasegate_idempotency::Once<T, Error>;

/// Why the service does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has faults: all of them.
    #[error("the {subject} has {}", count(faults.len()))]
    ValidationFailed {
        /// What it is.
        subject: Subject,
        /// What is wrong.
        faults: Vec<Issue>,
    },
    /// It is too large to be read.
    #[error("the {subject} is too large: {}", limits.first().map_or("it cannot be read", |issue| issue.message.as_str()))]
    TooLarge {
        /// What it is.
        subject: Subject,
        /// Which limits it breaks.
        limits: Vec<Issue>,
    },
    /// The published version has other content.
    #[error(transparent)]
    Immutable(#[from] Immutable),
    /// No such process or version, or not the caller's.
    #[error("process {process_id}{} was not found", version_words(version))]
    ProcessNotFound {
        /// What was asked for.
        process_id: String,
        /// Version, where one was asked for.
        version: String,
    },
    /// A draft is not for use.
    #[error("version {version} of {process_id} is a draft; publish it first")]
    NotStartable {
        /// Process.
        process_id: String,
        /// Version.
        version: String,
    },
    /// No such template.
    #[error("team template {id} was not found")]
    TemplateNotFound {
        /// What was asked for.
        id: String,
    },
    /// A template with this id has other content.
    #[error("there is a team template {id} with other content; choose another id")]
    TemplateExists {
        /// The id.
        id: String,
    },
    /// The values do not fit the template's schema.
    #[error("the onboarding values do not fit template {id}")]
    OnboardingInvalid {
        /// The template.
        id: String,
        /// What does not fit.
        faults: Vec<SchemaFault>,
    },
    /// No such team.
    #[error("team {id} was not found")]
    TeamNotFound {
        /// What was asked for.
        id: String,
    },
    /// People who came through a link neither read nor write definitions.
    #[error("a participant has no access to definitions and teams")]
    RoleForbidden,
    /// A field of the request is wrong in a way that every service knows.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The id of the request stands in the way.
    #[error(transparent)]
    RequestId(#[from] Refused),
    /// Somebody else wrote the same version or template at the same moment.
    #[error("somebody else is writing the same at this moment")]
    Overtaken,
    /// The store could not.
    #[error(transparent)]
    Store(#[from] store::Error),
}

// === impl App ===

impl App {
    /// The database, for whoever asks whether it answers.
    pub(crate) fn database(&self) -> &phasegate_database::Database {
        self.store.db()
    }

    /// Puts the service together.
    pub fn new(store: Store, clock: SharedClock) -> Self {
        Self { store, clock }
    }

    /// The tenant of a caller who may use this service.
    fn tenant(principal: &Principal) -> Result<TenantId, Error> {
        match principal.kind {
            Caller::Operator | Caller::Service | Caller::System => {
                Ok(TenantId::trusted(principal.tenant.clone()))
            }
            Caller::Participant => Err(Error::RoleForbidden),
        }
    }

    /// How the record names a caller.
    fn author(principal: &Principal) -> Author {
        Author(prost::Message::encode_to_vec(&principal.actor()))
    }
}

// === impl Error ===

impl Failure for Error {
    fn is_passing(&self) -> bool {
        match self {
            Self::Overtaken => true,
            Self::RequestId(refused) => refused.is_passing(),
            Self::Store(error) => error.is_passing(),
            Self::ValidationFailed { .. }
            | Self::TooLarge { .. }
            | Self::Immutable(_)
            | Self::ProcessNotFound { .. }
            | Self::NotStartable { .. }
            | Self::TemplateNotFound { .. }
            | Self::TemplateExists { .. }
            | Self::OnboardingInvalid { .. }
            | Self::TeamNotFound { .. }
            | Self::RoleForbidden
            | Self::Invalid(_) => false,
        }
    }
}

impl From<phasegate_database::Error> for Error {
    fn from(error: phasegate_database::Error) -> Self {
        Self::Store(store::Error::Database(error))
    }
}

// === impl Subject ===

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Definition => "definition",
            Self::Template => "team template",
        })
    }
}

fn count(faults: usize) -> String {
    if faults == 1 { "1 fault".to_owned() } else { format!("{faults} faults") }
}

fn version_words(version: &str) -> String {
    if version.is_empty() { String::new() } else { format!(" in version {version}") }
}

/// As much of what a caller wrote as a message repeats, without what could not be read in a log.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}

/// Runs a check that may take a while beside the tasks that serve.
async fn aside<T: Send + 'static>(check: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(check).await;
    done.map_err(|broken| phasegate_database::Error::Aborted(broken.to_string()).into())
}
