//! Compares what the clients were told with what is there: nothing lost, nothing twice, nothing that nobody asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use phasegate_clock::Timestamp;
use serde_json::Value;

use crate::entry::{comment_of, is_effective, kind_of, mark_of, number, text, time};
use crate::ledger::{Kind, Told};
use crate::process;
use crate::run::Run;

/// Longest time for what one service has told to arrive at the others.
const CONVERGES: Duration = Duration::from_secs(30);
/// How often a log is read that grows while its proof is asked for, and the time between.
const LOG_READ_MAX: u32 = 20;
const LOG_GROWS: Duration = Duration::from_millis(500);

/// What is there, in figures.
#[derive(Debug, Default)]
pub struct Totals {
    /// Instances.
    pub instances: usize,
    /// Instances that have completed.
    pub completed: usize,
    /// Entries of their logs.
    pub entries: usize,
    /// Versions of artifacts.
    pub versions: usize,
    /// Requests.
    pub requests: usize,
    /// Answers to them.
    pub votes: usize,
}

/// One instance as the API shows it in the end.
struct Instance {
    id: String,
    status: Value,
    entries: Vec<Value>,
    proof: Value,
    /// Versions of every artifact, the oldest first.
    artifacts: BTreeMap<String, Vec<Value>>,
    approvals: Vec<Value>,
    comments: Vec<Value>,
    links: Vec<Value>,
    /// What is wrong.
    faults: Vec<String>,
}

/// Reads everything and compares. What is wrong becomes a fault of the run. Gives the ids of the entries, by instance.
pub async fn check(run: &Run) -> anyhow::Result<Totals> {
    let told = run.ledger().told.clone();
    let heads = run.ledger().heads.clone();
    settles(run).await?;
    let listed =
        run.ask_all(&format!("/api/processes/{}/instances", run.manner.process), "instances").await?;
    for fault in starts(&told, &listed) {
        run.fault(fault);
    }
    let mut totals = Totals { instances: listed.len(), ..Totals::default() };
    for one in &listed {
        let id = text(&one["id"]).to_owned();
        let mut instance = Instance::read(run, &id).await?;
        let mine: Vec<&Told> = told.iter().filter(|told| told.instance == id).collect();
        let is_cancelled = mine.iter().any(|told| told.kind == Kind::Cancel && told.answer.is_some());
        instance.check_chain(heads.iter().filter(|head| head.0 == id), is_cancelled);
        totals.completed += usize::from(instance.status["status"] == "completed");
        instance.check_entries(&mine);
        instance.check_leases();
        instance.check_artifacts(&mine);
        instance.check_approvals(&mine);
        instance.check_rest(&mine);
        totals.entries += instance.entries.len();
        totals.versions += instance.artifacts.values().map(Vec::len).sum::<usize>();
        totals.requests += instance.approvals.len();
        totals.votes += instance.entries.iter().filter(|entry| kind_of(entry) == Some(Kind::Decide)).count();
        for fault in instance.faults {
            run.fault(fault);
        }
    }
    Ok(totals)
}

/// Waits until nothing is added to any log any more.
async fn settles(run: &Run) -> anyhow::Result<()> {
    let until = tokio::time::Instant::now() + CONVERGES;
    let path = format!("/api/processes/{}/instances", run.manner.process);
    let mut before = Vec::new();
    loop {
        let listed = run.ask_all(&path, "instances").await?;
        let now: Vec<(String, i64)> = listed
            .iter()
            .map(|one| (text(&one["id"]).to_owned(), one["version"].as_i64().unwrap_or_default()))
            .collect();
        if now == before {
            return Ok(());
        }
        anyhow::ensure!(tokio::time::Instant::now() < until, "the logs still grow");
        before = now;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

fn starts(told: &[Told], listed: &[Value]) -> Vec<String> {
    let mut faults = Vec::new();
    let done: Vec<&Told> = told.iter().filter(|told| told.kind == Kind::Start).collect();
    for told in &done {
        let same: Vec<&str> = listed
            .iter()
            .filter(|one| one["name"] == told.mark.as_str())
            .map(|one| text(&one["id"]))
            .collect();
        let id = told.answer.as_ref().map(|answer| text(&answer["id"]));
        if same != Vec::from_iter(id) {
            faults.push(format!("the start of {} was answered with {id:?}; there are {same:?}", told.mark));
        }
    }
    if listed.len() != done.len() {
        faults.push(format!("{} instances were started, {} are there", done.len(), listed.len()));
    }
    faults
}

impl Instance {
    async fn read(run: &Run, id: &str) -> anyhow::Result<Self> {
        let base = format!("/api/processes/instances/{id}");
        let mut artifacts = BTreeMap::new();
        for artifact in run.ask_all(&format!("{base}/artifacts"), "artifacts").await? {
            let key = text(&artifact["key"]).to_owned();
            let mut versions = run.ask_all(&format!("{base}/artifacts/{key}/versions"), "artifacts").await?;
            versions.reverse();
            artifacts.insert(key, versions);
        }
        let (entries, proof) = Self::read_log(run, &base).await?;
        Ok(Self {
            id: id.to_owned(),
            status: run.ask(&base).await?,
            entries,
            proof,
            artifacts,
            approvals: run.ask_all(&format!("{base}/approvals?all=true"), "approvals").await?,
            comments: run.ask_all(&format!("{base}/comments"), "comments").await?,
            links: run.ask_all(&format!("{base}/links"), "links").await?,
            faults: Vec::new(),
        })
    }

    /// The log and its proof. What the other services say of an instance may still arrive after its end, so that both are
    /// read until nothing came between them.
    async fn read_log(run: &Run, base: &str) -> anyhow::Result<(Vec<Value>, Value)> {
        let mut tries = 0;
        loop {
            let entries = run.ask_all(&format!("{base}/audit"), "entries").await?;
            let proof = run.ask(&format!("{base}/audit/verify")).await?;
            tries += 1;
            if proof["entries"] == entries.len() || tries == LOG_READ_MAX {
                return Ok((entries, proof));
            }
            tokio::time::sleep(LOG_GROWS).await;
        }
    }

    fn fault(&mut self, fault: String) {
        self.faults.push(format!("{}: {fault}", self.id));
    }

    /// The log is whole, and everything that somebody has read of it is still in it.
    fn check_chain<'a>(
        &mut self,
        heads: impl Iterator<Item = &'a (String, u64, String)>,
        is_cancelled: bool,
    ) {
        let mut previous = "0".repeat(64);
        let mut faults = Vec::new();
        let mut ids = BTreeSet::new();
        for (position, entry) in (1..).zip(&self.entries) {
            if entry["sequence"] != position || entry["previousHash"] != previous.as_str() {
                faults.push(format!("entry {position} does not follow: {entry}"));
            }
            if !ids.insert(text(&entry["id"])) {
                faults.push(format!("entry {position} has the id of another: {entry}"));
            }
            text(&entry["hash"]).clone_into(&mut previous);
        }
        let count = self.entries.len();
        if self.proof["intact"] != true
            || self.proof["entries"] != count
            || self.proof["headHash"] != previous.as_str()
        {
            faults.push(format!("{count} entries up to {previous}; the proof says {}", self.proof));
        }
        for (_, position, hash) in heads {
            let index = usize::try_from(*position).unwrap_or_default().checked_sub(1);
            let entry = index.and_then(|index| self.entries.get(index));
            if entry.is_none_or(|entry| entry["hash"] != hash.as_str()) {
                faults.push(format!("entry {position} was read with hash {hash}, and is gone"));
            }
        }
        let end = if is_cancelled { "cancelled" } else { "completed" };
        if self.status["status"] != end {
            faults.push(format!("it is not {end}: {}", self.status));
        }
        for ends in ["started", end] {
            let of_instance = |entry: &&Value| entry["type"] == "instance" && entry["action"] == ends;
            if self.entries.iter().filter(of_instance).count() != 1 {
                faults.push(format!("it {ends} more or less than once"));
            }
        }
        for fault in faults {
            self.fault(fault);
        }
    }

    /// Every change that was acknowledged is in the log once, none that was refused, and none that nobody asked for.
    fn check_entries(&mut self, told: &[&Told]) {
        let mut found: BTreeMap<(Kind, String), BTreeMap<String, u64>> = BTreeMap::new();
        let mut faults = Vec::new();
        for entry in &self.entries {
            let Some(kind) = kind_of(entry) else { continue };
            let mark = mark_of(kind, entry);
            if mark.starts_with("mark_") {
                // A request is asked again once its content has changed: that is another effect.
                let effect = text(&entry["details"]["request"]["contentDigest"]).to_owned();
                *found.entry((kind, mark)).or_default().entry(effect).or_default() += 1;
            } else if kind != Kind::Request && entry["actor"]["kind"] != "system" {
                faults.push(format!("nobody asked for {entry}"));
            }
        }
        for told in told.iter().filter(|told| !matches!(told.kind, Kind::Store | Kind::Link)) {
            let effects = found.remove(&(told.kind, told.mark.clone())).unwrap_or_default();
            let is_once = !effects.is_empty() && effects.values().all(|count| *count == 1);
            if is_effective(told) && !is_once {
                faults
                    .push(format!("{:?} {} was acknowledged; the log has {effects:?}", told.kind, told.mark));
            } else if !is_effective(told) && !effects.is_empty() {
                faults.push(format!("{:?} {} was refused; the log has {effects:?}", told.kind, told.mark));
            }
        }
        for (kind, mark) in found.into_keys() {
            faults.push(format!("nobody was told of {kind:?} {mark}, which is in the log"));
        }
        for fault in faults {
            self.fault(fault);
        }
    }

    /// A lease ends once and not before its time, and only the newest one of a task can do anything.
    fn check_leases(&mut self) {
        let mut open: BTreeMap<&str, f64> = BTreeMap::new();
        let mut until: BTreeMap<&str, Timestamp> = BTreeMap::new();
        let mut faults = Vec::new();
        for entry in &self.entries {
            let details = &entry["details"];
            let task = text(&details["task"]);
            let fencing = details["fencing"].as_f64().unwrap_or_default();
            if details["kind"] == "LEASE_EXPIRED" && until.get(task) > time(&entry["timestamp"]).as_ref() {
                faults.push(format!("the lease ended before its time: {entry}"));
            }
            match text(&entry["action"]) {
                "leased_task" => {
                    until.extend(time(&details["until"]).map(|until| (task, until)));
                    let before = open.insert(task, fencing);
                    faults
                        .extend(before.map(|_| format!("the task was leased while it was leased: {entry}")));
                }
                "handed_in_task" | "failed_attempt" | "released_task" => {
                    let is_holder = open.remove(task) == Some(fencing);
                    faults.extend(
                        (!is_holder).then(|| format!("somebody without the lease did this: {entry}")),
                    );
                }
                "skipped_task" | "escalated_task" | "failed_task" => {
                    faults.push(format!("this process never does that: {entry}"));
                }
                _ => {}
            }
        }
        for fault in faults {
            self.fault(fault);
        }
    }

    /// Every store that was acknowledged made one version, and every version is one that somebody was told of.
    fn check_artifacts(&mut self, told: &[&Told]) {
        let mut made: BTreeMap<String, Vec<(String, i64)>> = BTreeMap::new();
        let mut stored: BTreeMap<(String, i64), Vec<String>> = BTreeMap::new();
        let mut faults = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry["action"] == "stored_artifact") {
            let details = &entry["details"];
            let version = number(&details["artifact"]["version"]);
            let digest = text(&details["artifact"]["digest"]).to_owned();
            stored.entry((text(&details["key"]).to_owned(), version)).or_default().push(digest);
        }
        for (key, versions) in &self.artifacts {
            for (position, version) in (1..).zip(versions) {
                let entries = stored.remove(&(key.clone(), position)).unwrap_or_default();
                if number(&version["version"]) != position || entries != [text(&version["digest"])] {
                    faults.push(format!("version {position} of {key} is {version}; the log has {entries:?}"));
                }
                let call = text(&version["metadata"]["call"]).to_owned();
                made.entry(call).or_default().push((key.clone(), position));
            }
        }
        if !stored.is_empty() {
            faults.push(format!("the log has versions that are not there: {stored:?}"));
        }
        for told in told.iter().filter(|told| told.kind == Kind::Store) {
            let versions = made.remove(&told.mark).unwrap_or_default();
            let expected = told
                .answer
                .as_ref()
                .map(|answer| (text(&answer["key"]).to_owned(), number(&answer["version"])));
            if versions != Vec::from_iter(expected.clone()) {
                faults.push(format!(
                    "store {} was answered with {expected:?}; there are {versions:?}",
                    told.mark
                ));
            }
        }
        if !made.is_empty() {
            faults.push(format!("nobody was told of versions {made:?}"));
        }
        for fault in faults {
            self.fault(fault);
        }
    }

    /// One request for each call, one vote for each person and content, one end for each request, and everybody was asked.
    fn check_approvals(&mut self, told: &[&Told]) {
        let mut faults = Vec::new();
        let mut votes = BTreeSet::new();
        let mut responses = BTreeSet::new();
        let mut ends = BTreeSet::new();
        for entry in &self.entries {
            let details = &entry["details"];
            let approval = text(&details["approval"]);
            if kind_of(entry) == Some(Kind::Decide) {
                let vote = (approval, text(&details["participant"]), text(&details["contentDigest"]));
                if !votes.insert(vote) || !responses.insert(text(&details["response"])) {
                    faults.push(format!("a second vote: {entry}"));
                }
            } else if entry["type"] == "approval" && details["status"].is_string() && !ends.insert(approval) {
                faults.push(format!("a second end: {entry}"));
            }
        }
        for told in told.iter().filter(|told| told.kind == Kind::Request) {
            let same = self.approvals.iter().filter(|one| one["title"] == told.mark.as_str()).count();
            if same != usize::from(is_effective(told)) {
                faults.push(format!("request {}: {same} are there; told {:?}", told.mark, told.answer));
            }
        }
        for told in told.iter().filter(|told| told.kind == Kind::Decide && is_effective(told)) {
            let answer = told.answer.as_ref().unwrap_or(&Value::Null);
            let Some(now) = self.approvals.iter().find(|one| one["id"] == answer["id"]) else {
                faults.push(format!("{} was decided, and is gone", answer["id"]));
                continue;
            };
            if answer["contentDigest"] != told.call.body["contentDigest"] {
                faults.push(format!("the vote {} counts for what nobody has seen: {answer}", told.mark));
            }
            // Votes on a content that has changed since were withdrawn.
            if now["contentDigest"] == answer["contentDigest"] && comment_of(now, told) != Some(&told.mark) {
                faults.push(format!("the vote {} is gone: {now}", told.mark));
            }
        }
        for (subject, approvers) in process::ASKED {
            let (kind, id) = subject.split_once(':').unwrap_or_default();
            let mut approved = false;
            for one in
                self.approvals.iter().filter(|one| one["subjectKind"] == kind && one["subjectId"] == id)
            {
                let said = one["approvers"].as_array().map(Vec::as_slice).unwrap_or_default();
                let asked: BTreeSet<&str> = said.iter().map(|one| text(&one["participantId"])).collect();
                if asked != approvers.iter().copied().collect() {
                    faults.push(format!("{subject} needs {approvers:?}, and {asked:?} were asked"));
                }
                let is_approved = one["status"] == "approved";
                approved |= is_approved;
                if is_approved && !said.iter().all(|one| one["status"] == "approved") {
                    faults.push(format!("{subject} is approved, and not by everybody: {one}"));
                }
            }
            if self.status["status"] == "completed" && !approved {
                faults.push(format!("nobody has approved {subject}"));
            }
        }
        for open in self.approvals.iter().filter(|one| one["status"] == "pending") {
            faults.push(format!("the instance is over, and people are still asked: {open}"));
        }
        for fault in faults {
            self.fault(fault);
        }
    }

    /// Facts, context, comments and links.
    fn check_rest(&mut self, told: &[&Told]) {
        let mut faults = Vec::new();
        let done = |kind: Kind| told.iter().filter(move |told| told.kind == kind && told.answer.is_some());
        for (kind, field) in [(Kind::Facts, "facts"), (Kind::Context, "context")] {
            for told in done(kind).filter(|told| self.status[field][&told.mark] != true) {
                faults.push(format!("{field}: {} is gone", told.mark));
            }
        }
        let mut comments: Vec<(&str, &str)> =
            self.comments.iter().map(|one| (text(&one["id"]), text(&one["body"]))).collect();
        let mut expected: Vec<(&str, &str)> = done(Kind::Comment)
            .filter_map(|told| Some((text(&told.answer.as_ref()?["id"]), told.mark.as_str())))
            .collect();
        comments.sort_unstable();
        expected.sort_unstable();
        if comments != expected {
            faults.push(format!("comments {expected:?} were written; there are {comments:?}"));
        }
        // The mail brings links of its own. Operators may call with a key.
        let by_operators = self.links.iter().filter(|link| link["createdBy"]["kind"] != "system");
        let mut links: Vec<&str> = by_operators.map(|link| text(&link["id"])).collect();
        let mut expected: Vec<&str> =
            done(Kind::Link).filter_map(|told| Some(text(&told.answer.as_ref()?["link"]["id"]))).collect();
        links.sort_unstable();
        expected.sort_unstable();
        if links != expected {
            faults.push(format!("links {expected:?} were made; there are {links:?}"));
        }
        let mut entered: Vec<&str> = self
            .entries
            .iter()
            .filter(|entry| entry["action"] == "created_link")
            .map(|entry| text(&entry["details"]["link"]))
            .collect();
        let mut all: Vec<&str> = self.links.iter().map(|link| text(&link["id"])).collect();
        entered.sort_unstable();
        all.sort_unstable();
        if entered != all {
            let unknown: Vec<_> = entered.iter().filter(|id| !all.contains(id)).collect();
            let untold: Vec<_> = all.iter().filter(|id| !entered.contains(id)).collect();
            faults.push(format!(
                "{} links are there, the log has {}; not there: {unknown:?}, not in the log: {untold:?}",
                all.len(),
                entered.len()
            ));
        }
        for fault in faults {
            self.fault(fault);
        }
    }
}
