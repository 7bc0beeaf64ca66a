//! Plays one instance against the engine and the model at once: workers that take, finish and lose work, people who
//! answer in any order, artifacts that change under review, operators who interfere, and messages that come late or
//! not at all. After every command both must agree on everything that can be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::num::NonZero;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ArtifactKey, InstanceId, ParticipantId, PhaseId, TaskId};
use phasegate_instance::domain::{
    Action, Actor, ActorKind, ApprovalStatus, Channel, Command, CurrentVersion, Effect, Event, Fact,
    GateStatus, Instance, Rejection, RemarkMade, RequestView, Start, Status, Subject, check, content_keys,
    decide, evolve, react, ready_work,
};
use phasegate_process::Definition;
use serde_json::json;

use crate::chance::Chance;
use crate::cover::Cover;
use crate::generate::{self, DELEGATOR, FACTS};
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
        let chance = Chance::new(chance.next());
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
            let action = Action::Resume { reason: String::new() };
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

    // === Workers ===

    fn lease(&mut self, cover: &mut Cover) -> Result<(), Difference> {
        let ready: Vec<TaskId> = ready_work(self.definition, &self.instance).into_keys().collect();
        let any = if self.chance.percent(4) { self.any_task() } else { None };
        let Some(task) = any.or_else(|| self.chance.one(&ready).cloned()) else { return Ok(()) };
        let token = self.instance.tasks.get(&task).map_or(0, |state| state.fencing + 1);
        let until = self.now + Duration::from_secs(60);
        let words = format!("lease {task} #{token}");
        let action = Action::Lease { task: task.clone(), worker: "w".to_owned(), until };
        self.tokens.entry(task.to_string()).or_default().push(token);
        self.both(agent(), action, &words, cover, |model| model.lease(task.as_str(), token))
    }

    /// A worker does something with a lease: mostly the newest one.
    fn work(&mut self, cover: &mut Cover) -> Result<(), Difference> {
        let running = self.instance.tasks.iter().filter(|(_, task)| task.lease.is_some());
        let running: Vec<TaskId> = running.map(|(id, _)| id.clone()).collect();
        let any = if self.chance.percent(5) { self.any_task() } else { None };
        let task = any.or_else(|| self.chance.one(&running).cloned());
        let Some(task) = task else { return Ok(()) };
        let granted = self.tokens.get(task.as_str()).cloned().unwrap_or_default();
        let newest = self.instance.tasks.get(&task).map_or(0, |task| task.fencing);
        let token = if self.chance.percent(90) {
            newest
        } else {
            self.chance.one(&granted).copied().unwrap_or(newest)
        };
        let jitter = u8::from(self.chance.percent(50));
        match self.chance.below(100) {
            0..62 => self.hand_in(&task, token, cover),
            62..84 => {
                let is_final = self.chance.percent(15);
                let action = Action::Fail {
                    task: task.clone(),
                    fencing: token,
                    kind: "TOOL_ERROR".to_owned(),
                    message: "it broke".to_owned(),
                    non_retryable: is_final,
                    retry_after: None,
                    jitter: f64::from(jitter),
                };
                let words = format!("fail {task} #{token} final={is_final}");
                let jitter = u64::from(jitter);
                self.both(agent(), action, &words, cover, |model| {
                    model.fail(task.as_str(), token, is_final, false, jitter)
                })
            }
            84..94 => {
                let action =
                    Action::ExpireLease { task: task.clone(), fencing: token, jitter: f64::from(jitter) };
                let words = format!("expire {task} #{token}");
                let jitter = u64::from(jitter);
                self.both(engine(), action, &words, cover, |model| {
                    model.fail(task.as_str(), token, false, true, jitter)
                })
            }
            _ => {
                let action =
                    Action::Release { task: task.clone(), fencing: token, reason: "cannot".to_owned() };
                let words = format!("release {task} #{token}");
                self.both(agent(), action, &words, cover, |model| model.release(task.as_str(), token))
            }
        }
    }

    fn hand_in(&mut self, task: &TaskId, token: u64, cover: &mut Cover) -> Result<(), Difference> {
        let expected = self.written(task).map(|task| task.artifacts.clone()).unwrap_or_default();
        for key in expected {
            if self.chance.percent(92) {
                let version = self.stored.get(&key).map_or(1, |stored| stored.0 + 1);
                self.stored.insert(key, (version, task.to_string()));
            }
        }
        let there = self.versions();
        let action = Action::HandIn {
            task: task.clone(),
            fencing: token,
            output: Some(json!({"done": true})),
            summary: String::new(),
        };
        let words = format!("hand in {task} #{token}");
        self.both(agent(), action, &words, cover, |model| model.hand_in(task.as_str(), token, &there))
    }

    // === People ===

    /// Somebody answers; or an agent asks early; or an answer comes that nobody waits for.
    fn decide(&mut self, cover: &mut Cover) -> Result<(), Difference> {
        if self.chance.percent(8) {
            self.ask_early();
        }
        if self.chance.percent(3) {
            return self.answer_key(cover);
        }
        let ids: Vec<ApprovalId> = self.desks.keys().cloned().collect();
        let Some(id) = self.chance.one(&ids).cloned() else { return Ok(()) };
        let Some(mut desk) = self.desks.get(&id).cloned() else { return Ok(()) };
        if self.chance.percent(25) {
            // What lies before people is put to them anew, with what is there now; or it is only heard of now.
            if self.chance.percent(50) {
                desk.reviewed = self.newest_of(desk.reviewed.keys());
                desk.waiting = desk.approvers.clone();
                self.desks.insert(id.clone(), desk.clone());
            }
            return self.hear_request(&id, &desk, cover);
        }
        let answer = match self.chance.below(100) {
            0..76 => {
                if let Some(one) = desk.waiting.pop_first() {
                    let _ = writeln!(self.script, "  ({one} approves)");
                }
                if !desk.waiting.is_empty() {
                    self.desks.insert(id, desk);
                    return Ok(());
                }
                ApprovalStatus::Approved
            }
            76..87 => ApprovalStatus::ChangesRequested,
            87..91 => ApprovalStatus::Rejected,
            91..94 => ApprovalStatus::Expired,
            94..97 => ApprovalStatus::Withdrawn,
            _ => ApprovalStatus::Superseded,
        };
        if self.chance.percent(95) {
            self.desks.remove(&id);
        }
        self.settle(&id, &desk, answer, cover)
    }

    /// An agent asks for its own work before handing it in.
    fn ask_early(&mut self) {
        let running =
            self.instance.tasks.iter().filter(|(_, task)| task.lease.is_some() && task.approval.is_none());
        let running: Vec<(TaskId, u32)> = running.map(|(id, task)| (id.clone(), task.round)).collect();
        let Some((task, round)) = self.chance.one(&running).cloned() else { return };
        let Some(written) = self.written(&task).filter(|task| !task.required_approvals.is_empty()) else {
            return;
        };
        let approvers: BTreeSet<String> = written.required_approvals.iter().cloned().collect();
        let reviewed = self.newest_of(written.artifacts.iter());
        let id = ApprovalId::derive(&self.instance.id, "task", task.as_str(), round);
        let waiting = approvers.clone();
        self.desks.insert(id, Desk { subject: Subject::Task(task), round, approvers, waiting, reviewed });
    }

    fn hear_request(&mut self, id: &ApprovalId, desk: &Desk, cover: &mut Cover) -> Result<(), Difference> {
        let fact = Fact::ApprovalRequested { approval: id.clone(), request: self.view(desk) };
        let (round, reviewed, approvers) = (desk.round, desk.reviewed.clone(), desk.approvers.clone());
        let subject = named(&desk.subject);
        let words = format!("requested {} {} round {round} {reviewed:?}", subject.0, subject.1);
        self.hear(fact, &words, cover, |model, _| model.asked(&subject, round, &approvers, &reviewed))
    }

    fn settle(
        &mut self,
        id: &ApprovalId,
        desk: &Desk,
        status: ApprovalStatus,
        cover: &mut Cover,
    ) -> Result<(), Difference> {
        let remarks = if status == ApprovalStatus::ChangesRequested {
            let made_at = self.now;
            let participant = ParticipantId::trusted("h1");
            vec![RemarkMade { participant, artifact: None, path: String::new(), made_at }]
        } else {
            Vec::new()
        };
        let request = self.view(desk);
        let fact =
            Fact::ApprovalSettled { approval: id.clone(), status, request, remarks, reason: String::new() };
        let subject = named(&desk.subject);
        let (round, reviewed) = (desk.round, desk.reviewed.clone());
        let words =
            format!("settled {} {} round {round} {} {reviewed:?}", subject.0, subject.1, status.as_str());
        self.hear(fact, &words, cover, |model, there| {
            model.answered(&subject, round, status.as_str(), &reviewed, there);
        })
    }

    fn answer_key(&mut self, cover: &mut Cover) -> Result<(), Difference> {
        let key = ["legal", "f1"][self.chance.below(2)].to_owned();
        let status =
            if self.chance.percent(60) { ApprovalStatus::Approved } else { ApprovalStatus::Rejected };
        let desk = Desk {
            subject: Subject::AdHoc(key.clone()),
            round: 1,
            approvers: BTreeSet::new(),
            waiting: BTreeSet::new(),
            reviewed: Versions::new(),
        };
        self.settle(&ApprovalId::trusted(format!("apr-{key}")), &desk, status, cover)
    }

    fn view(&self, desk: &Desk) -> RequestView {
        let people = |people: &BTreeSet<String>| people.iter().map(ParticipantId::trusted).collect();
        let key = if let Subject::AdHoc(key) = &desk.subject { key.clone() } else { String::new() };
        RequestView {
            subject: desk.subject.clone(),
            round: desk.round,
            title: "Please look".to_owned(),
            task: None,
            key,
            approvers: people(&desk.approvers),
            waiting_on: people(&desk.waiting),
            artifacts: desk
                .reviewed
                .iter()
                .map(|(key, version)| (ArtifactKey::trusted(key), *version))
                .collect(),
            content_digest: String::new(),
            requested_at: self.now,
            expires_at: None,
        }
    }

    // === Artifacts, facts and operators ===

    /// A new version is stored; the engine may hear of it, or not yet.
    fn store(&mut self, cover: &mut Cover) -> Result<(), Difference> {
        let Some(task) = self.any_task() else { return Ok(()) };
        let key = if self.chance.percent(80) { format!("k-{task}") } else { format!("n-{task}") };
        let version = self.stored.get(&key).map_or(1, |stored| stored.0 + 1);
        self.stored.insert(key.clone(), (version, task.to_string()));
        let _ = writeln!(self.script, "  (stored {key} {version})");
        if self.chance.percent(40) {
            return Ok(());
        }
        let artifact = self.current(&key);
        let fact = Fact::ArtifactStored { key: ArtifactKey::trusted(&key), artifact, size_bytes: 1 };
        self.hear(fact, &format!("heard of {key} {version}"), cover, |model, _| {
            model.hear_of(&key, version, task.as_str());
        })
    }

    fn tell(&mut self, cover: &mut Cover) -> Result<(), Difference> {
        let reason = "because".to_owned();
        if self.chance.percent(10) {
            let context =
                if self.chance.percent(80) { json!({"size": self.chance.below(6)}) } else { json!({}) };
            let action = Action::ChangeContext {
                context: context.clone(),
                expected_version: None,
                lease: None,
                reason,
            };
            let words = format!("context {context}");
            return self.both(operator(), action, &words, cover, |model| model.set_context(context));
        }
        let name = FACTS[self.chance.below(FACTS.len())];
        let value = self.chance.percent(70);
        let facts = BTreeMap::from([(name.to_owned(), value)]);
        let words = format!("fact {name}={value}");
        let action = Action::SetFacts { facts, lease: None, reason };
        self.both(operator(), action, &words, cover, |model| model.set_fact(name, value))
    }

    fn steer(&mut self, cover: &mut Cover) -> Result<(), Difference> {
        let reason = || "because".to_owned();
        let who = match self.chance.below(10) {
            0..6 => operator(),
            6..9 => participant(DELEGATOR),
            _ => participant("h1"),
        };
        let may = who.id != "h1";
        let name = who.id.clone();
        match self.chance.below(100) {
            0..32 => {
                let force = self.chance.percent(15);
                let action = Action::Advance { from_phase: None, force, reason: reason() };
                let words = format!("{name}: advance force={force}");
                self.both(who, action, &words, cover, |model| may && model.advance(force))
            }
            32..40 => {
                let action = Action::Pause { reason: reason() };
                self.both(who, action, &format!("{name}: pause"), cover, |model| may && model.turn("paused"))
            }
            40..46 => {
                let action = Action::Resume { reason: reason() };
                self.both(who, action, &format!("{name}: resume"), cover, |model| {
                    may && model.turn("running")
                })
            }
            46..48 => {
                let action = Action::Cancel { reason: reason() };
                self.both(who, action, &format!("{name}: cancel"), cover, |model| {
                    may && model.turn("cancelled")
                })
            }
            48..66 => {
                let Some(task) = self.a_stuck_task() else { return Ok(()) };
                let action = Action::RetryTask { task: task.clone(), reason: reason() };
                let words = format!("{name}: retry {task}");
                self.both(who, action, &words, cover, |model| may && model.retry(task.as_str()))
            }
            66..76 => {
                let Some(task) = self.a_stuck_task() else { return Ok(()) };
                let action = Action::SkipTask { task: task.clone(), reason: reason() };
                let words = format!("{name}: skip {task}");
                self.both(who, action, &words, cover, |model| may && model.skip(task.as_str()))
            }
            _ => self.reopen(who, may, cover),
        }
    }

    fn reopen(&mut self, who: Actor, may: bool, cover: &mut Cover) -> Result<(), Difference> {
        let blocked = self.definition.phases.iter().find(|phase| {
            let state = self.instance.phases.get(phase.id.as_str());
            state.is_some_and(|state| state.block.is_some())
        });
        let any = self.chance.one(&self.definition.phases);
        let Some(phase) = blocked.filter(|_| self.chance.percent(60)).or(any) else { return Ok(()) };
        let all: Vec<String> = phase.tasks.iter().map(|task| task.id.clone()).collect();
        let most = self.chance.below(3);
        let chosen: BTreeSet<String> = self.chance.some(&all, most).into_iter().collect();
        let words = format!("{}: reopen {} {chosen:?}", who.id, phase.id);
        let action = Action::Reopen {
            phase: Some(PhaseId::trusted(&phase.id)),
            tasks: chosen.iter().map(TaskId::trusted).collect(),
            reason: "because".to_owned(),
        };
        self.both(who, action, &words, cover, |model| may && model.reopen(&phase.id, &chosen))
    }

    // === Both at once ===

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

    /// Everything that can be seen of both must be the same.
    fn compare(&self) -> Result<(), Difference> {
        if self.agree() {
            return Ok(());
        }
        let (engine, model) = (self.seen_of_engine(), self.seen_of_model());
        let mut differing = String::new();
        for key in engine.keys().chain(model.keys()).collect::<BTreeSet<_>>() {
            let (one, other) = (engine.get(key), model.get(key));
            if one != other {
                let _ = writeln!(differing, "{key}: engine {one:?}, model {other:?}");
            }
        }
        Err(self.differs(&differing))
    }

    /// The same without words, because almost always it is so.
    fn agree(&self) -> bool {
        let (engine, model) = (&self.instance, &self.model);
        let is_same_review = |kind: &'static str, id: &str, round: u32, slot: Option<&ApprovalId>| {
            let Some(review) = model.reviews.get(&(kind, id.to_owned())) else { return false };
            let asked =
                review.request.as_ref().filter(|request| !model.is_over() || request.answer.is_some());
            let answer = asked.map(|request| request.answer.unwrap_or("pending"));
            review.round + 1 == round && self.asked(slot) == answer
        };
        let phases = engine.phases.iter().all(|(id, phase)| {
            model.phases.get(id.as_str()).is_some_and(|known| known.0 == phase.status.as_str())
                && is_same_review("phase", id.as_str(), phase.round, phase.approval.as_ref())
        });
        let gates = engine.gates.iter().all(|(id, gate)| {
            model.gates.get(id.as_str()).is_some_and(|known| *known == gate_word(gate.status))
                && is_same_review("gate", id.as_str(), gate.round, gate.approval.as_ref())
        });
        let tasks = engine.tasks.iter().all(|(id, task)| {
            model.tasks.get(id.as_str()).is_some_and(|known| {
                known.status == task.status.as_str()
                    && known.attempt == task.attempt
                    && known.assignee == task.assignee
                    && known.ready_at == task.ready_at.map(micros)
            }) && is_same_review("task", id.as_str(), task.round, task.approval.as_ref())
        });
        let is_fact = |(name, value): (&String, &bool), others: &BTreeMap<String, bool>| {
            !value || others.get(name) == Some(&true)
        };
        let facts = engine.facts.iter().all(|fact| is_fact(fact, &model.facts))
            && model.facts.iter().all(|fact| is_fact(fact, &engine.facts));
        let queue = ready_work(self.definition, engine);
        let expected = model.queue();
        let queue = queue.len() == expected.len()
            && queue.values().all(|work| {
                expected.contains(&(work.task.to_string(), work.queue.trim_start_matches("q-").to_owned()))
            });
        engine.status.as_str() == model.status && phases && gates && tasks && facts && queue
    }

    /// Where the request in a slot stands, in the words of the rules.
    fn asked(&self, slot: Option<&ApprovalId>) -> Option<&'static str> {
        let approval = slot.and_then(|id| self.instance.approvals.get(id))?;
        let is_needed = approval.status == ApprovalStatus::Needed;
        Some(if is_needed { "pending" } else { approval.status.as_str() })
    }

    fn seen_of_engine(&self) -> BTreeMap<String, String> {
        let mut seen = BTreeMap::from([("status".to_owned(), self.instance.status.as_str().to_owned())]);
        let asked = |slot: &Option<ApprovalId>| self.asked(slot.as_ref()).unwrap_or("unasked");
        for (id, phase) in &self.instance.phases {
            let words = format!("{} {} {}", phase.status.as_str(), phase.round, asked(&phase.approval));
            seen.insert(format!("phase {id}"), words);
        }
        for (id, gate) in &self.instance.gates {
            let words = format!("{} {} {}", gate_word(gate.status), gate.round, asked(&gate.approval));
            seen.insert(format!("gate {id}"), words);
        }
        for (id, task) in &self.instance.tasks {
            let words = format!(
                "{} attempt {} of {} at {:?}, round {} {}",
                task.status.as_str(),
                task.attempt,
                task.assignee,
                task.ready_at.map(micros),
                task.round,
                asked(&task.approval)
            );
            seen.insert(format!("task {id}"), words);
        }
        let facts: Vec<&String> =
            self.instance.facts.iter().filter(|(_, value)| **value).map(|(name, _)| name).collect();
        seen.insert("facts".to_owned(), format!("{facts:?}"));
        let queue: BTreeSet<(String, String)> = ready_work(self.definition, &self.instance)
            .into_values()
            .map(|work| (work.task.to_string(), work.queue.replace("q-", "")))
            .collect();
        seen.insert("queue".to_owned(), format!("{queue:?}"));
        seen
    }

    fn seen_of_model(&self) -> BTreeMap<String, String> {
        let model = &self.model;
        let mut seen = BTreeMap::from([("status".to_owned(), model.status.to_owned())]);
        let reviewed = |kind, id: &String| {
            let review = &model.reviews[&(kind, id.clone())];
            let asked =
                review.request.as_ref().map_or("unasked", |request| request.answer.unwrap_or("pending"));
            // What nobody has answered when the instance ends is withdrawn with it.
            let asked = if model.is_over() && asked == "pending" { "unasked" } else { asked };
            format!("{} {asked}", review.round + 1)
        };
        for (id, (status, _)) in &model.phases {
            seen.insert(format!("phase {id}"), format!("{status} {}", reviewed("phase", id)));
        }
        for (id, status) in &model.gates {
            seen.insert(format!("gate {id}"), format!("{status} {}", reviewed("gate", id)));
        }
        for (id, task) in &model.tasks {
            let words = format!(
                "{} attempt {} of {} at {:?}, round {}",
                task.status,
                task.attempt,
                task.assignee,
                task.ready_at,
                reviewed("task", id)
            );
            seen.insert(format!("task {id}"), words);
        }
        let facts: Vec<&String> =
            model.facts.iter().filter(|(_, value)| **value).map(|(name, _)| name).collect();
        seen.insert("facts".to_owned(), format!("{facts:?}"));
        seen.insert("queue".to_owned(), format!("{:?}", model.queue()));
        seen
    }

    /// The state must be what its history says.
    fn check_replay(&self) -> Result<(), Difference> {
        let replayed = self.events.iter().fold(Instance::unstarted(), evolve);
        if replayed == self.instance {
            Ok(())
        } else {
            Err(self.differs("the history folds to another state"))
        }
    }

    fn differs(&self, what: &str) -> Difference {
        Difference(format!("{what}\nafter\n{}", self.script))
    }

    // === Looking ===

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

fn gate_word(status: GateStatus) -> &'static str {
    match status {
        GateStatus::Pending => "pending",
        GateStatus::Open => "open",
        GateStatus::Rejected => "rejected",
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
