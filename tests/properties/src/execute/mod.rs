//! Plays one instance against the engine and the model at once: workers that take, finish and lose work, people who
//! answer in any order, artifacts that change under review, operators who interfere, and messages that come late or
//! not at all. After every command both must agree on everything that can be seen.

mod compare;
mod operators;
mod people;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::num::NonZero;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ArtifactKey, InstanceId, TaskId};
use phasegate_instance::domain::{
    Action, Actor, ActorKind, Channel, Command, CurrentVersion, Effect, Event, Fact, Instance, Rejection,
    Start, Status, Subject, check, content_keys, decide, evolve, react,
};
use phasegate_process::Definition;
use serde_json::json;

use crate::chance::Chance;
use crate::cover::Cover;
use crate::generate;
use crate::reference::{Model, Versions};

/// Commands in one play.
const COMMANDS: usize = 100;

/// When every play begins, in microseconds.
const BEGIN: i64 = 1_700_000_000_000_000;

/// What differs, with everything that led to it.
#[derive(Debug)]
pub struct Difference(pub String);

/// A request that lies before people.
#[derive(Debug, Clone)]
struct Desk {
    subject: Subject,
    round: u32,
    approvers: BTreeSet<String>,
    waiting: BTreeSet<String>,
    reviewed: Versions,
}

/// One play.
struct Play<'d> {
    definition: &'d Definition,
    chance: Chance,
    now: Timestamp,
    instance: Instance,
    model: Model<'d>,
    /// What artifact has, with the task that each was stored for.
    stored: BTreeMap<String, (u32, String)>,
    desks: BTreeMap<ApprovalId, Desk>,
    /// Leases that were granted, by task.
    tokens: BTreeMap<String, Vec<u64>>,
    script: String,
    events: Vec<Event>,
}

/// Plays many seeds, on all processors; stops at the first difference.
pub fn play_seeds(seeds: Range<u64>, plays: u64, cover: &mut Cover) -> Result<(), Difference> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut cover = Cover::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return Ok(cover);
            }
            if let Err(difference) = play_seed(seed, plays, &mut cover) {
                next.store(seeds.end, Ordering::Relaxed);
                return Err(difference);
            }
        }
    };
    let played: Vec<Result<Cover, Difference>> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let lost = |_| Err(Difference("a thread was lost".to_owned()));
        running.into_iter().map(|thread| thread.join().unwrap_or_else(lost)).collect()
    });
    for covered in played {
        cover.add(&covered?);
    }
    Ok(())
}

/// Makes the definition of a seed and plays it some times. A difference comes with the seed that shows it again.
pub fn play_seed(seed: u64, plays: u64, cover: &mut Cover) -> Result<(), Difference> {
    let mut chance = Chance::new(seed);
    let definition = generate::definition(&mut chance);
    for number in 1..=plays {
        let chance = Chance::new(chance.number());
        let played = catch_unwind(AssertUnwindSafe(|| play(&definition, chance, cover)));
        let different = match played {
            Ok(Ok(())) => continue,
            Ok(Err(difference)) => difference.0,
            Err(_) => "the engine panicked, see above".to_owned(),
        };
        return Err(Difference(format!("seed {seed}, play {number}: {different}")));
    }
    Ok(())
}

/// Plays one instance to its end, or until it was played long enough.
fn play(definition: &Definition, chance: Chance, cover: &mut Cover) -> Result<(), Difference> {
    let now = Timestamp::from_micros(BEGIN);
    let mut play = Play {
        definition,
        chance,
        now,
        instance: Instance::unstarted(),
        model: Model::start(definition, micros(now)),
        stored: BTreeMap::new(),
        desks: BTreeMap::new(),
        tokens: BTreeMap::new(),
        script: String::new(),
        events: Vec::new(),
    };
    play.start(cover)?;
    for _ in 0..COMMANDS {
        if play.instance.status.is_terminal() && play.chance.percent(70) {
            break;
        }
        let seconds = play.chance.below(4);
        play.now = play.now + Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        play.model.set_now(micros(play.now));
        play.step(cover)?;
    }
    play.check_replay()?;
    cover.take_end(definition, &play.instance);
    Ok(())
}

fn micros(time: Timestamp) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or_default()
}

impl<'d> Play<'d> {
    fn start(&mut self, cover: &mut Cover) -> Result<(), Difference> {
        let start = Start {
            id: InstanceId::trusted("run"),
            definition_digest: "sha256:00".to_owned(),
            name: String::new(),
            context: json!({}),
            participants: BTreeMap::new(),
            team_id: String::new(),
            labels: BTreeMap::new(),
        };
        self.both(operator(), Action::Start(start), "start", cover, |_| true)
    }

    /// One more thing happens.
    fn step(&mut self, cover: &mut Cover) -> Result<(), Difference> {
        if self.instance.status == Status::Paused && self.chance.percent(25) {
            let action = Action::Resume { reason: "go on".to_owned() };
            return self.both(operator(), action, "resume", cover, |model| model.turn("running"));
        }
        match self.chance.below(100) {
            0..22 => self.lease(cover),
            22..49 => self.work(cover),
            49..79 => self.decide(cover),
            79..83 => self.store(cover),
            83..91 => self.tell(cover),
            _ => self.steer(cover),
        }
    }

    fn hear(
        &mut self,
        fact: Fact,
        words: &str,
        cover: &mut Cover,
        model: impl FnOnce(&mut Model<'d>, &Versions),
    ) -> Result<(), Difference> {
        let action = Action::Hear { fact, at: self.now };
        let there = self.versions();
        self.both(engine(), action, words, cover, |it| {
            model(it, &there);
            true
        })
    }

    /// Gives a command to both, and compares.
    fn both(
        &mut self,
        actor: Actor,
        action: Action,
        words: &str,
        cover: &mut Cover,
        model: impl FnOnce(&mut Model<'d>) -> bool,
    ) -> Result<(), Difference> {
        let _ = writeln!(self.script, "{words}");
        let asked = content_keys(self.definition, &self.instance, &action);
        let stored = asked.iter().filter(|key| self.stored.contains_key(key.as_str()));
        let current = stored.map(|key| (key.clone(), self.current(key.as_str()))).collect();
        let command = Command { actor, action, current };
        let decided = decide(self.definition, &self.instance, &command, self.now);
        let agreed = model(&mut self.model);
        if decided.is_ok() != agreed {
            let said = decided.map_or_else(|rejection| format!("{rejection:?}"), |_| "accepts it".to_owned());
            return Err(self.differs(&format!(
                "engine: {said}; model: {}",
                if agreed { "accepts it" } else { "refuses it" }
            )));
        }
        self.take_in(decided, cover)
    }

    fn take_in(
        &mut self,
        decided: Result<Vec<Event>, Rejection>,
        cover: &mut Cover,
    ) -> Result<(), Difference> {
        let events = match decided {
            Ok(events) => events,
            Err(rejection) => {
                cover.note(format!("refused: {}", variant(&rejection)));
                return Ok(());
            }
        };
        let before = self.instance.clone();
        let after = events.iter().fold(self.instance.clone(), evolve);
        for event in &events {
            cover.take_in(self.definition, &after, event);
        }
        if !events.is_empty() {
            self.model.settle(&self.versions());
        }
        for effect in react(self.definition, &before, &after, &events) {
            self.put_to_people(&effect)?;
        }
        self.instance = after;
        self.events.extend(events);
        if let Err(broken) = check(self.definition, &self.instance) {
            return Err(self.differs(&broken.to_string()));
        }
        self.compare()
    }

    fn put_to_people(&mut self, effect: &Effect) -> Result<(), Difference> {
        if let Effect::AskApprovals { needs, .. } = effect {
            for need in needs {
                let approvers: BTreeSet<String> = need.approvers.iter().map(ToString::to_string).collect();
                let review = self.model.reviews.get(&named(&need.subject));
                let expected = review.and_then(|review| review.request.as_ref());
                if expected.is_some_and(|request| request.approvers != approvers) {
                    return Err(self.differs(&format!("engine asks {approvers:?}, model {expected:?}")));
                }
                let reviewed = self.newest_of(need.artifacts.iter().map(ArtifactKey::as_str));
                let waiting = approvers.clone();
                let desk =
                    Desk { subject: need.subject.clone(), round: need.round, approvers, waiting, reviewed };
                self.desks.entry(need.approval.clone()).or_insert(desk);
            }
        }
        if let Effect::WithdrawApprovals { approvals, .. } = effect {
            // Somebody may still answer what has just been taken back.
            let late = self.chance.percent(20);
            self.desks.retain(|id, _| late || !approvals.contains(id));
        }
        Ok(())
    }

    fn differs(&self, what: &str) -> Difference {
        Difference(format!("{what}\nafter\n{}", self.script))
    }

    fn any_task(&mut self) -> Option<TaskId> {
        let tasks: Vec<TaskId> = self.instance.tasks.keys().cloned().collect();
        self.chance.one(&tasks).cloned()
    }

    fn a_stuck_task(&mut self) -> Option<TaskId> {
        let is_stuck = |status: &str| matches!(status, "blocked" | "failed" | "escalated");
        let stuck = self.instance.tasks.iter().filter(|(_, task)| is_stuck(task.status.as_str()));
        let stuck: Vec<TaskId> = stuck.map(|(id, _)| id.clone()).collect();
        if self.chance.percent(75) { self.chance.one(&stuck).cloned() } else { None }
            .or_else(|| self.any_task())
    }

    fn written(&self, task: &TaskId) -> Option<&'d phasegate_process::Task> {
        self.definition
            .phases
            .iter()
            .flat_map(|phase| &phase.tasks)
            .find(|written| written.id == task.as_str())
    }

    fn versions(&self) -> Versions {
        self.stored.iter().map(|(key, (version, _))| (key.clone(), *version)).collect()
    }

    fn newest_of<K: AsRef<str>>(&self, keys: impl Iterator<Item = K>) -> Versions {
        keys.filter_map(|key| self.stored.get(key.as_ref()).map(|stored| (key.as_ref().to_owned(), stored.0)))
            .collect()
    }

    fn current(&self, key: &str) -> CurrentVersion {
        let (version, task) = self.stored.get(key).cloned().unwrap_or_default();
        CurrentVersion {
            version,
            kind: "document".to_owned(),
            digest: String::new(),
            phase: String::new(),
            task,
        }
    }
}

fn named(subject: &Subject) -> crate::reference::Subject {
    match subject {
        Subject::Task(id) => ("task", id.to_string()),
        Subject::Phase(id) => ("phase", id.to_string()),
        Subject::Gate(id) => ("gate", id.to_string()),
        Subject::AdHoc(key) => ("key", key.clone()),
    }
}

fn variant(rejection: &Rejection) -> String {
    let text = format!("{rejection:?}");
    text.split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
}

fn operator() -> Actor {
    Actor { kind: ActorKind::Operator, id: "op".to_owned(), on_behalf_of: None, channel: Channel::Api }
}

fn agent() -> Actor {
    Actor { kind: ActorKind::Agent, id: "a1".to_owned(), on_behalf_of: None, channel: Channel::Api }
}

fn engine() -> Actor {
    Actor::engine()
}

fn participant(id: &str) -> Actor {
    Actor { kind: ActorKind::Participant, id: id.to_owned(), on_behalf_of: None, channel: Channel::Portal }
}
