//! The pages' templates and what they show.

use askama::Template;

use super::content::Change;
use super::view::Step;
use super::when::When;

/// What the person finds first: what is needed, where it stands, what is new.
#[derive(Debug, Template)]
#[template(path = "portal/home.html")]
pub(super) struct Home {
    pub(super) instance_name: String,
    pub(super) process_name: String,
    pub(super) notice: Option<String>,
    pub(super) pending: Vec<Pending>,
    pub(super) next_expected: Option<String>,
    pub(super) can_approve: bool,
    pub(super) base: String,
    pub(super) progress: i32,
    pub(super) current_phase: String,
    pub(super) completion: Option<When>,
    pub(super) phases: Vec<Step>,
    pub(super) artifacts: Vec<ArtifactLine>,
    pub(super) comments: Vec<CommentLine>,
    pub(super) can_comment: bool,
    pub(super) comment_nonce: String,
    pub(super) decisions: Vec<DecisionLine>,
    pub(super) person: String,
    pub(super) address: String,
}

/// A request that waits for the person.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) subject: String,
    pub(super) requested_by: String,
    pub(super) due: Option<When>,
    pub(super) overdue: bool,
}

/// An artifact by name.
#[derive(Debug)]
pub(super) struct ArtifactLine {
    pub(super) key: String,
    pub(super) version: i32,
    pub(super) kind: String,
    pub(super) at: When,
}

/// What somebody wrote.
#[derive(Debug)]
pub(super) struct CommentLine {
    pub(super) author: String,
    pub(super) about: String,
    pub(super) text: String,
    pub(super) at: When,
}

/// What somebody decided.
#[derive(Debug)]
pub(super) struct DecisionLine {
    pub(super) approval_id: String,
    pub(super) title: String,
    pub(super) class: &'static str,
    pub(super) word: &'static str,
    pub(super) who: String,
    pub(super) comment: String,
    pub(super) at: When,
}

/// One request, to look at and to answer.
#[derive(Debug, Template)]
#[template(path = "portal/review.html")]
pub(super) struct Review {
    pub(super) id: String,
    pub(super) base: String,
    pub(super) instance_name: String,
    pub(super) notice: Option<String>,
    /// What was wrong with the form: the field's id and a sentence.
    pub(super) faults: Vec<(&'static str, String)>,
    pub(super) title: String,
    pub(super) subject: String,
    pub(super) requested_by: String,
    pub(super) round: i32,
    pub(super) due: Option<When>,
    pub(super) overdue: bool,
    pub(super) description: String,
    pub(super) artifacts: Vec<Reviewed>,
    pub(super) next_approve: String,
    pub(super) next_changes: String,
    pub(super) next_reject: String,
    pub(super) answers: Vec<(String, &'static str)>,
    pub(super) can_decide: bool,
    pub(super) why_not: String,
    /// There is a receipt of this person's answer.
    pub(super) has_answered: bool,
    pub(super) digest: String,
    /// What had been chosen, when the form comes back.
    pub(super) chosen: String,
    pub(super) comment: String,
    pub(super) person: String,
    pub(super) address: String,
}

impl Review {
    /// What is wrong with one field.
    fn fault(&self, field: &str) -> Option<&str> {
        self.faults.iter().find(|(name, _)| *name == field).map(|(_, text)| text.as_str())
    }
}

/// An artifact under review.
#[derive(Debug)]
pub(super) struct Reviewed {
    pub(super) key: String,
    pub(super) version: i32,
    pub(super) previous: i32,
    pub(super) changed: bool,
    pub(super) changes: Vec<Change>,
    /// Made by [`super::content::html`], which escapes everything.
    pub(super) html: String,
    pub(super) digest: String,
    pub(super) remark: String,
}

/// The last look before a decision.
#[derive(Debug, Template)]
#[template(path = "portal/confirm.html")]
pub(super) struct Confirm {
    pub(super) id: String,
    pub(super) base: String,
    pub(super) instance_name: String,
    pub(super) title: String,
    pub(super) verb: &'static str,
    pub(super) button: &'static str,
    pub(super) decision: String,
    pub(super) digest: String,
    pub(super) nonce: String,
    pub(super) comment: String,
    pub(super) remarks: Vec<(String, String)>,
    pub(super) person: String,
    pub(super) address: String,
}

/// What was recorded.
#[derive(Debug, Template)]
#[template(path = "portal/receipt.html")]
pub(super) struct Receipt {
    pub(super) id: String,
    pub(super) base: String,
    pub(super) instance_name: String,
    pub(super) heading: String,
    pub(super) text: String,
    pub(super) title: String,
    pub(super) word: &'static str,
    pub(super) at: When,
    pub(super) comment: String,
    pub(super) digest: String,
    /// The next request of the same person.
    pub(super) next: Option<(String, String)>,
}

/// One artifact.
#[derive(Debug, Template)]
#[template(path = "portal/artifact.html")]
pub(super) struct ArtifactPage {
    pub(super) base: String,
    pub(super) instance_name: String,
    pub(super) key: String,
    pub(super) version: i32,
    pub(super) newest: i32,
    pub(super) kind: String,
    pub(super) author: String,
    pub(super) at: When,
    /// Made by [`super::content::html`], which escapes everything.
    pub(super) html: String,
    pub(super) digest: String,
}
