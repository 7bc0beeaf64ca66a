//! What the answers amount to. This is the one function that decides, whichever door an answer came through.

use super::approval::{Approver, Standing};
use super::command::Decision;

/// What the answers amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tally {
    /// They do not decide it yet.
    Open,
    /// Approved.
    Approved,
    /// Rejected.
    Rejected,
    /// Changes are wanted.
    ChangesRequested,
}

/// Counts answers under the policy `all`.
///
/// One no of whatever kind ends it: it is a rejection if anybody rejected, else a wish for changes. It is approved once
/// everybody who was asked first has approved, or once a stand-in has: the stand-in was added because somebody is
/// silent, and answers in place of all who still are.
pub fn tally(approvers: &[Approver]) -> Tally {
    let says = |wanted: Decision| {
        approvers.iter().filter_map(Approver::answer).any(|answer| answer.decision == wanted)
    };
    if says(Decision::Reject) {
        return Tally::Rejected;
    }
    if says(Decision::RequestChanges) {
        return Tally::ChangesRequested;
    }
    let mut asked_first = approvers.iter().filter(|one| !one.escalated).peekable();
    let by_all = asked_first.peek().is_some() && asked_first.all(Approver::has_approved);
    let by_stand_in = approvers.iter().any(|one| one.escalated && one.has_approved());
    if by_all || by_stand_in { Tally::Approved } else { Tally::Open }
}

impl Approver {
    fn has_approved(&self) -> bool {
        match &self.standing {
            Standing::Answered(answer) => answer.decision == Decision::Approve,
            Standing::Pending | Standing::NotNeeded => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::examples;

    #[test]
    fn the_answers_of_all_decide() {
        // a approve, r reject, c request_changes, - pending; capital letters are those of stand-ins.
        let table = [
            ("", Tally::Open),
            ("-", Tally::Open),
            ("a", Tally::Approved),
            ("a-", Tally::Open),
            ("-a", Tally::Open),
            ("aa", Tally::Approved),
            ("r", Tally::Rejected),
            ("r-", Tally::Rejected),
            ("ar", Tally::Rejected),
            ("c-", Tally::ChangesRequested),
            ("ac", Tally::ChangesRequested),
            ("cr", Tally::Rejected),
            ("rc", Tally::Rejected),
            ("-_", Tally::Open),
            ("-A", Tally::Approved),
            ("--A", Tally::Approved),
            ("a_", Tally::Approved),
            ("-R", Tally::Rejected),
            ("-C", Tally::ChangesRequested),
            ("-AR", Tally::Rejected),
            ("rA", Tally::Rejected),
            ("_", Tally::Open),
            ("A", Tally::Approved),
        ];
        for (answers, expected) in table {
            assert_eq!(tally(&examples::approvers(answers)), expected, "{answers:?}");
        }
    }
}
