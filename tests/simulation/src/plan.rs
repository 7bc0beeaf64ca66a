//! What one seed sets out to do: how many instances, how the bus behaves, how often something dies. Every seed draws its
//! own mixture, so that some have one kind of trouble and nothing else, and some have all of them.

use std::fmt;

use phasegate_properties::chance::Chance;

/// Commands of one seed: at least so many.
const COMMANDS_MIN: usize = 310;

/// By how much the clock of a machine may be wrong, ahead or behind: what a lease is relied upon for ends two seconds
/// before the promise that it rests on, and two clocks may be that far apart together.
pub(crate) const SKEW_MILLIS_MAX: usize = 990;

/// The mixture of a seed. Figures are out of a thousand.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Instances that are under way at once.
    pub(crate) instances: usize,
    /// Commands that clients give.
    pub(crate) commands: usize,
    /// Deliveries that the bus loses.
    pub(crate) lose: usize,
    /// Deliveries that it makes twice.
    pub(crate) repeat: usize,
    /// Deliveries that it makes out of order.
    pub(crate) reorder: usize,
    /// Deliveries that it makes late.
    pub(crate) delay: usize,
    /// Steps at which a copy of a service dies.
    pub(crate) crash: usize,
    /// Steps at which the bus loses everything.
    pub(crate) wipe: usize,
    /// Replies that are lost on their way back.
    pub(crate) swallow: usize,
    /// Calls that are lost on their way there.
    pub(crate) drop_call: usize,
    /// Confirmations that are lost.
    pub(crate) unconfirmed: usize,
    /// Changes that wait a while between being decided and being written.
    pub(crate) linger: usize,
    /// Messages that the mail server refuses for now.
    pub(crate) mail_refused: usize,
    /// Messages that it takes, and the answer is lost.
    pub(crate) mail_lost: usize,
    /// Events that a receiver cannot take for a reason that passes.
    pub(crate) hiccup: usize,
    /// Events that a receiver cannot take at all, until somebody has mended it.
    pub(crate) poison: usize,
    /// Commits of which nobody learns whether they took effect.
    pub(crate) doubt: usize,
    /// Steps at which the bus is set back to what it was a while ago.
    pub(crate) rollback: usize,
    /// By how much a clock may be wrong, in milliseconds.
    pub(crate) skew: usize,
    /// Deadlines, reminders and escalations are short, and met.
    pub(crate) hurried: bool,
}

impl Plan {
    /// Draws the mixture of a seed.
    pub(crate) fn draw(chance: &mut Chance) -> Self {
        let mut often = |most: usize| match chance.below(4) {
            0 => 0,
            1 => most / 4,
            2 => most / 2,
            _ => most,
        };
        let mut plan = Self {
            instances: 0,
            commands: 0,
            lose: often(150),
            repeat: often(150),
            reorder: often(700),
            delay: often(200),
            crash: often(12),
            wipe: often(3),
            swallow: often(120),
            drop_call: often(60),
            unconfirmed: often(150),
            linger: 0,
            mail_refused: often(300),
            mail_lost: often(100),
            hiccup: often(80),
            poison: often(10),
            doubt: often(40),
            rollback: often(4),
            skew: often(SKEW_MILLIS_MAX),
            hurried: false,
        };
        plan.linger = 100 + often(500);
        plan.instances = chance.between(2, 4);
        plan.commands = chance.between(COMMANDS_MIN, COMMANDS_MIN + 40);
        plan.hurried = chance.percent(60);
        plan
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
