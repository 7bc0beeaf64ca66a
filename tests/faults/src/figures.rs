//! The table of a run, and whether the run has done enough to count.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use phasegate_load::check::Totals;
use phasegate_load::ledger::Kind;
use phasegate_load::meter::Spent;

use crate::load::Watched;
use crate::plan::Plan;
use crate::world::World;

/// What was found when all was over.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) totals: Totals,
    /// What must not have happened, shortened.
    pub(crate) faults: Vec<String>,
    pub(crate) mail_sent: u64,
    pub(crate) watched: Watched,
    pub(crate) seconds: u64,
}

/// A line: what, how much, and whether it is enough.
struct Line(&'static str, String, Option<bool>);

/// The table, how many figures were reached, and those that were not.
pub(crate) fn table(plan: &Plan, world: &World, found: &Found) -> (String, usize, Vec<String>) {
    let lines = lines(plan, world, found);
    let mut text = String::new();
    let mut missing = Vec::new();
    let mut reached = 0;
    for Line(what, how_much, is_enough) in lines {
        let mark = match is_enough {
            Some(true) => "ok",
            Some(false) => "MISSED",
            None => "",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {what:<58}{how_much:<44}{mark}");
        reached += usize::from(is_enough == Some(true));
        if is_enough == Some(false) {
            missing.push(format!("{what}: {how_much}"));
        }
    }
    (text, reached, missing)
}

fn lines(plan: &Plan, world: &World, found: &Found) -> Vec<Line> {
    let counts = world.counts().clone();
    let ledger = world.run.ledger();
    let kills: u64 = counts.kills.values().sum();
    let acknowledged = ledger.acknowledged();
    let of = |kind: Kind| ledger.tallies.get(&kind).map_or(0, |tally| tally.acknowledged);
    let share = (of(Kind::Decide) + of(Kind::Complete)) * 100 / acknowledged.max(1);
    let done_share = acknowledged * 100 / (acknowledged + ledger.refused()).max(1);
    let (succeeded, failures) = world.run.window.calls();
    let failed: u64 = failures.values().sum();
    let success = percent(succeeded, failed);
    let postgres = counts.postgres_back.iter().max().map_or(f64::MAX, std::time::Duration::as_secs_f64);
    let exits = counts.exits.len() as u64;
    let slowest = counts.exits.iter().max().map_or(0.0, std::time::Duration::as_secs_f64);
    let converged = counts.converged.map_or(f64::MAX, |time| time.as_secs_f64());
    let repeated = world.losses.kinds();
    let fewest = Kind::ALL.iter().map(|kind| repeated.get(kind).map_or(0, |loss| loss.repeated)).min();
    let all: u64 = repeated.values().map(|loss| loss.repeated).sum();
    let fewest_kills = world
        .machine
        .copies
        .iter()
        .map(|copy| copy.service)
        .chain(["postgres", "redis"])
        .map(|what| counts.kills.get(what).copied().unwrap_or_default())
        .min()
        .unwrap_or_default();
    let fewest_faults = counts.faults.values().min().copied().unwrap_or_default();
    let kinds_of_faults = counts.faults.len();
    let Watched { watches, resumed, events, streams } = found.watched;
    let moods: BTreeMap<String, u64> =
        world.sink.moods().into_iter().map(|(mood, count)| (format!("{mood:?}"), count)).collect();
    let to_clients: u64 = world.to_gateways.iter().map(|proxy| proxy.swallowed()).sum();
    let swallowed = BTreeMap::from([
        ("clients", to_clients),
        ("PostgreSQL, commits", world.to_postgres.swallowed()),
        ("Redis", world.to_redis.swallowed()),
    ]);
    let mail = world.sink.mail();
    let twice = mail.values().filter(|texts| texts.len() > 1).count();
    vec![
        Line(
            "kills over all services, PostgreSQL, Redis",
            format!("{kills} (fewest of one: {fewest_kills})"),
            Some(kills >= plan.kills && fewest_kills >= plan.kills_each),
        ),
        Line("  of which", words(&counts.kills), None),
        Line("total losses of Redis", counts.redis_lost.to_string(), Some(counts.redis_lost >= plan.losses)),
        Line(
            "other faults",
            format!("{kinds_of_faults} kinds (fewest of one: {fewest_faults})"),
            Some(kinds_of_faults == 15 && fewest_faults >= plan.faults_each),
        ),
        Line("  of which", words(&counts.faults), None),
        Line(
            "replies that were swallowed",
            words(&swallowed),
            Some(swallowed.values().all(|count| *count >= plan.faults_each)),
        ),
        Line(
            "moods of the mail server",
            words(&moods),
            Some(moods.len() == 5 && moods.values().all(|count| *count >= plan.faults_each)),
        ),
        Line(
            "acknowledged writes",
            format!("{acknowledged} ({done_share} % of those answered)"),
            Some(acknowledged >= plan.acknowledged && done_share >= 60),
        ),
        Line("  by the end of the faults", counts.acknowledged.to_string(), None),
        Line("  decisions and completions", format!("{share} %"), Some(share >= plan.decisions_percent)),
        Line(
            "instances completed",
            format!("{} of {}", found.totals.completed, found.totals.instances),
            Some(found.totals.completed as u64 >= plan.completed),
        ),
        Line(
            "lost, twice, or otherwise wrong",
            found.faults.len().to_string(),
            Some(found.faults.is_empty()),
        ),
        Line(
            "converged after the faults stopped",
            format!("{converged:.1} s"),
            Some(converged <= plan.converges.as_secs_f64()),
        ),
        Line(
            "replies swallowed after commit, first answer repeated",
            format!("{all} (fewest of one of {} kinds: {})", Kind::ALL.len(), fewest.unwrap_or_default()),
            Some(fewest.unwrap_or_default() >= plan.swallowed_each),
        ),
        Line(
            "16 parallel decisions on one approval: one effect",
            format!("{} times, {} calls", counts.duels, counts.duel_calls),
            Some(counts.duels >= plan.duels),
        ),
        Line(
            "stale leases accepted",
            format!("{} of {}", counts.stale_accepted, counts.stale_tried),
            Some(counts.stale_accepted == 0 && counts.stale_tried >= plan.stale),
        ),
        Line(
            "Redis away: calls that succeed",
            format!("{success:.3} % of {} in {} s", succeeded + failed, plan.redis_away.as_secs()),
            Some(success >= 99.9 && succeeded >= 50 * plan.redis_away.as_secs()),
        ),
        Line("  those that did not", words(&failures), None),
        Line(
            "PostgreSQL back: first success, slowest",
            format!("{postgres:.1} s of {} times", counts.postgres_back.len()),
            Some(postgres <= 10.0),
        ),
        Line(
            "SIGTERM under load: exits within 10 s",
            format!("{} of {exits}, slowest {slowest:.1} s", exits - counts.exits_late),
            Some(counts.exits_late == 0 && exits >= plan.terminated),
        ),
        Line(
            "watches resumed without gap or repeat",
            format!("{resumed} of {watches} watches, {streams} streams, {events} events"),
            Some(resumed == watches && watches > plan.watched as u64 && events >= 100),
        ),
        Line(
            "mail sent, and came more than once",
            format!("{} sent, {twice} came more than once", found.mail_sent),
            Some(found.mail_sent > 0),
        ),
        Line("log entries, versions, requests, votes", totals(&found.totals), None),
        Line(
            "processor time for each acknowledged write",
            cost(&Spent::new(), &world.meter.spent(), acknowledged),
            None,
        ),
        Line(
            "time of the run",
            format!("{} min {} s", found.seconds / 60, found.seconds % 60),
            Some(found.seconds <= plan.takes.as_secs()),
        ),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn percent(succeeded: u64, failed: u64) -> f64 {
    succeeded as f64 * 100.0 / (succeeded + failed).max(1) as f64
}

/// In milliseconds, shared out among `many`: of everybody and by who spends it.
pub(crate) fn cost(before: &Spent, after: &Spent, many: u64) -> String {
    let spent: Spent = after
        .iter()
        .map(|(what, millis)| (*what, millis.saturating_sub(before.get(what).copied().unwrap_or_default())))
        .collect();
    let each = |millis: u64| millis / many.max(1);
    let words: Vec<String> = spent.iter().map(|(what, millis)| format!("{what} {}", each(*millis))).collect();
    format!("{} ms: {}", each(spent.values().sum()), words.join(", "))
}

fn totals(totals: &Totals) -> String {
    let Totals { entries, versions, requests, votes, .. } = totals;
    format!("{entries}, {versions}, {requests}, {votes}")
}

fn words(counts: &BTreeMap<impl std::fmt::Display, u64>) -> String {
    let words: Vec<String> = counts.iter().map(|(word, count)| format!("{word} {count}")).collect();
    words.join(", ")
}
