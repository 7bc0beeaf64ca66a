//! What always holds, in code: used by the tests, and before a request is stored in debug builds.

use std::collections::BTreeSet;

use super::approval::{Approval, Standing, State};
use super::{Outcome, SettledBy, Tally, digest, tally, timing};

/// The first rule that a request breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invariant {0} is broken")]
pub struct Broken(pub &'static str);

/// Checks I2 to I6 of the module above; I1 is about two moments, and a property test checks it.
pub fn check(approval: &Approval) -> Result<(), Broken> {
    let people: BTreeSet<_> = approval.approvers.iter().map(|one| &one.id).collect();
    let waits = approval.approvers.iter().any(|one| one.standing == Standing::Pending);
    let decided = tally(&approval.approvers);
    let rule = |name: &'static str, holds: bool| if holds { Ok(()) } else { Err(Broken(name)) };
    rule("I2: approvers are distinct", people.len() == approval.approvers.len())?;
    rule("I4: the digest is that of the content", approval.digest == digest::content(&approval.request))?;
    for approver in &approval.approvers {
        let own = approver.answer().is_some() && approval.is_own_work_of(&approver.id);
        rule("I6: nobody decides the own work", !own)?;
    }
    match &approval.state {
        State::Pending => {
            rule("I3: a pending request is undecided", decided == Tally::Open)?;
            rule("I3: a pending request has no idle approver", {
                approval.approvers.iter().all(|one| one.standing != Standing::NotNeeded)
            })
        }
        State::Settled(settlement) => {
            rule("I2: nobody waits once it is settled", !waits)?;
            rule("I5: a settled request has no timer", timing::due_next(approval).is_none())?;
            let answered = matches!(settlement.by, SettledBy::Answer(_));
            let fits = match (settlement.outcome, decided) {
                (Outcome::Approved, Tally::Approved)
                | (Outcome::Rejected, Tally::Rejected)
                | (Outcome::ChangesRequested, Tally::ChangesRequested) => answered,
                (
                    Outcome::Rejected | Outcome::Expired | Outcome::Withdrawn | Outcome::Superseded,
                    Tally::Open,
                ) => !answered,
                (
                    Outcome::Approved
                    | Outcome::Rejected
                    | Outcome::ChangesRequested
                    | Outcome::Expired
                    | Outcome::Withdrawn
                    | Outcome::Superseded,
                    Tally::Open | Tally::Approved | Tally::Rejected | Tally::ChangesRequested,
                ) => false,
            };
            rule("I3: the outcome is what the answers amount to", fits)
        }
    }
}
