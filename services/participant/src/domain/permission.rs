//! What a link lets its holder do. A set, because the row of a link is one, and what holds in the end is what the row
//! and the person's role have in common: a row that says too much gives nothing away.

use super::person::{Person, RaidRole};

/// One thing that a link may allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Read the portal.
    View,
    /// Answer requests.
    Approve,
    /// Write comments.
    Comment,
    /// Hand a request on.
    Delegate,
}

/// A set of permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions(u8);

// === impl Permission ===

impl Permission {
    /// All of them, in the order of the contract.
    pub const ALL: [Self; 4] = [Self::View, Self::Approve, Self::Comment, Self::Delegate];

    const fn bit(self) -> u8 {
        match self {
            Self::View => 1,
            Self::Approve => 2,
            Self::Comment => 4,
            Self::Delegate => 8,
        }
    }
}

// === impl Permissions ===

impl Permissions {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// What a link allows when nothing else is asked for.
    pub const USUAL: Self =
        Self(Permission::View.bit() | Permission::Approve.bit() | Permission::Comment.bit());

    /// What the role of a person allows at most. The informed decide nothing; any other may be asked, an approver from
    /// the start, the others when a request is escalated to them, and approval takes answers from who was asked only.
    pub fn of_role(person: &Person) -> Self {
        let mut most = Self(Permission::View.bit() | Permission::Comment.bit());
        if person.raid_role != RaidRole::Informed {
            most = most.with(Permission::Approve);
        }
        if person.can_delegate || person.raid_role == RaidRole::Delegator {
            most = most.with(Permission::Delegate);
        }
        most
    }

    /// This and one more.
    pub const fn with(self, permission: Permission) -> Self {
        Self(self.0 | permission.bit())
    }

    /// What is in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether it allows something.
    pub const fn has(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// Whether it allows nothing.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// In the order of the contract.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |permission| self.has(*permission))
    }

    /// As it is stored: one bit each.
    pub fn to_bits(self) -> i64 {
        i64::from(self.0)
    }

    /// From what is stored; nothing for a number that was never written.
    pub fn from_bits(bits: i64) -> Option<Self> {
        u8::try_from(bits).ok().filter(|bits| *bits < 16).map(Self)
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        permissions.into_iter().fold(Self::NONE, Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::person::tests::person;

    #[test]
    fn the_informed_decide_nothing_and_only_who_may_hand_on_does() {
        use Permission::{Approve, Comment, Delegate, View};
        let table: [(RaidRole, bool, &[Permission]); 6] = [
            (RaidRole::Approver, false, &[View, Approve, Comment]),
            (RaidRole::Approver, true, &[View, Approve, Comment, Delegate]),
            (RaidRole::Responsible, false, &[View, Approve, Comment]),
            (RaidRole::Responsible, true, &[View, Approve, Comment, Delegate]),
            (RaidRole::Informed, false, &[View, Comment]),
            (RaidRole::Delegator, false, &[View, Approve, Comment, Delegate]),
        ];
        for (raid_role, can_delegate, expected) in table {
            let person = Person { raid_role, can_delegate, ..person() };
            let most = Permissions::of_role(&person);
            assert_eq!(most.iter().collect::<Vec<_>>(), expected, "{raid_role:?} {can_delegate}");
        }
    }

    #[test]
    fn sets_are_stored_as_bits() {
        for bits in 0..16 {
            let set = Permissions::from_bits(bits).unwrap();
            assert_eq!(set.to_bits(), bits);
            assert_eq!(set.iter().collect::<Permissions>(), set);
        }
        assert_eq!(Permissions::from_bits(16), None);
        assert_eq!(Permissions::from_bits(-1), None);
        assert_eq!(Permissions::USUAL.to_bits(), 7);
    }
}
