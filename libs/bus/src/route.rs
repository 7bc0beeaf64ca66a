//! Who receives what.

use phasegate_proto::internal::event::v1::event::Payload;

/// A service that receives events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Receiver {
    /// The engine.
    Instance,
    /// Requests and decisions.
    Approval,
    /// People and links.
    Participant,
    /// Mail.
    Notification,
}

impl Receiver {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Instance, Self::Approval, Self::Participant, Self::Notification];

    /// The name of the service.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Approval => "approval",
            Self::Participant => "participant",
            Self::Notification => "notification",
        }
    }

    /// The receiver of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|receiver| receiver.name() == name)
    }

    /// Its place in a set of receivers that is kept as a number. Never changed: outboxes hold such numbers.
    pub const fn bit(self) -> i64 {
        match self {
            Self::Instance => 1,
            Self::Approval => 2,
            Self::Participant => 4,
            Self::Notification => 8,
        }
    }

    /// Who receives an event. A service that comes to need what others already send hears of it from those that run the
    /// same version or a later one: where that matters, a new kind of event is the better way.
    pub const fn of(payload: &Payload) -> &'static [Self] {
        use Receiver::{Approval, Instance, Notification, Participant};
        match payload {
            Payload::InstanceStarted(_) => &[Participant, Notification],
            Payload::InstancePaused(_)
            | Payload::InstanceResumed(_)
            | Payload::ApprovalsNeeded(_)
            | Payload::ApprovalsMoot(_) => &[Approval],
            Payload::InstanceEnded(_) => &[Approval, Participant, Notification],
            Payload::PhaseChanged(_) | Payload::TaskEscalated(_) => &[Notification],
            Payload::ApprovalsRequested(_)
            | Payload::ApprovalResponded(_)
            | Payload::ApprovalSettled(_)
            | Payload::ApprovalReminded(_)
            | Payload::ApprovalEscalated(_)
            | Payload::FreshLinkAsked(_) => &[Instance, Notification],
            Payload::ArtifactStored(_) => &[Instance, Approval],
            Payload::CommentCreated(_)
            | Payload::LinkCreated(_)
            | Payload::LinkRevoked(_)
            | Payload::LinkOpened(_)
            | Payload::NotificationSettled(_) => &[Instance],
        }
    }

    /// The receivers of an event as a number; nobody receives what has no payload that we know.
    pub fn set_of(payload: Option<&Payload>) -> i64 {
        payload.map_or(&[][..], Self::of).iter().fold(0, |set, receiver| set | receiver.bit())
    }
}

/// Whether an event only goes into the record: nothing follows from it, and nobody waits for it.
pub const fn is_note(payload: &Payload) -> bool {
    matches!(
        payload,
        Payload::LinkCreated(_)
            | Payload::LinkRevoked(_)
            | Payload::LinkOpened(_)
            | Payload::NotificationSettled(_)
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn receivers_differ_in_name_and_place() {
        let names: BTreeSet<_> = Receiver::ALL.iter().map(|receiver| receiver.name()).collect();
        let bits: i64 = Receiver::ALL.iter().map(|receiver| receiver.bit()).sum();
        assert_eq!(names.len(), Receiver::ALL.len());
        assert_eq!(bits.count_ones() as usize, Receiver::ALL.len());
        for receiver in Receiver::ALL {
            assert_eq!(Receiver::named(receiver.name()), Some(receiver));
        }
        assert_eq!(Receiver::named("gateway"), None);
    }
}
