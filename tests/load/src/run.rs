//! A run: the servers of the moment, and calls that are repeated until they have an answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rand::Rng as _;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::ledger::{Call, Kind, Ledger, Told};
use crate::window::Window;

/// How often a client does not wait for its answer.
const ABANDONS: f64 = 0.08;
/// How often a client repeats a call that it knows to be done.
const REPEATS: f64 = 0.1;

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Everything.
    Load,
    /// Only what brings the instances to their end.
    Closing,
    /// Nothing.
    Over,
}

/// How the clients of a run behave.
#[derive(Debug, Clone)]
pub struct Manner {
    /// Id of the definition.
    pub process: String,
    /// What the clients show; none where nobody asks for it.
    pub keys: Option<Keys>,
    /// Only a kill of the one server may cut a connection. Elsewhere something between may, too.
    pub is_alone: bool,
    /// Longest wait for one answer.
    pub answer_time: Duration,
    /// Longest wait for an answer over all repeats, and for the server to be there.
    pub patience: Duration,
    /// Instances that one operator has under way at a time.
    pub under_way: usize,
    /// How often an operator does something that no instance needs, of all that it does.
    pub busy: f64,
    /// Longest pause of an operator between two things, in milliseconds.
    pub pause_millis: u64,
    /// How often an operator cancels an instance, of all that it does.
    pub cancels: f64,
}

/// What clients show who they are with.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// Operators, and whoever only reads.
    pub operator: String,
    /// Agents.
    pub agent: String,
    /// People who decide, by participant.
    pub people: BTreeMap<String, String>,
}

impl Keys {
    /// The key for a call: what leases need is an agent's, and a decision that of the person whose it is.
    fn of(&self, call: &Call) -> &str {
        if call.path.starts_with("/api/workers/") || call.body["taskToken"].is_string() {
            return &self.agent;
        }
        let person = call.body["approverId"].as_str().filter(|_| call.path.ends_with("/decision"));
        person.and_then(|person| self.people.get(person)).unwrap_or(&self.operator)
    }
}

/// Swallows replies: calls sent to its address are carried out, and their replies kept from the caller.
pub trait Swallower: std::fmt::Debug + Send + Sync {
    /// Whether the next call of a kind is to lose its reply.
    fn wants(&self, kind: Kind) -> bool;
    /// Where to send it.
    fn address(&self) -> String;
    /// What the server answered to the call with a request id, if it did.
    fn reply(&self, request_id: &str) -> Option<(u16, Value)>;
    /// The repeat gave this first answer.
    fn repeated(&self, kind: Kind);
}

/// The servers between two kills.
#[derive(Debug)]
struct Life {
    number: u64,
    addresses: Vec<String>,
}

/// What all clients share.
#[derive(Debug)]
pub struct Run {
    /// How they behave.
    pub manner: Manner,
    /// Takes replies away; none where nothing stands between.
    pub swallower: Option<Arc<dyn Swallower>>,
    /// Counts calls at times.
    pub window: Window,
    http: reqwest::Client,
    /// Never uses a connection twice.
    once: reqwest::Client,
    life: watch::Sender<Option<Arc<Life>>>,
    next_address: AtomicUsize,
    /// Lives that were ended, or are being ended at this moment.
    ended: AtomicU64,
    stage: watch::Sender<Stage>,
    ledger: Mutex<Ledger>,
    marks: AtomicU64,
    began: Instant,
    /// When a change was acknowledged last, in microseconds since the beginning.
    acknowledged_at: AtomicU64,
}

/// What comes of sending a call.
pub(crate) enum Outcome {
    Answered(u16, Value),
    /// Nobody was there to take it.
    NotSent,
    /// It was sent, and no answer came.
    Unanswered(String),
    /// The client did not wait.
    Abandoned,
}

impl Manner {
    /// Of clients of one server of which nothing is known but its definition.
    pub fn new(process: &str) -> Self {
        Self {
            process: process.to_owned(),
            keys: None,
            is_alone: true,
            answer_time: Duration::from_secs(40),
            patience: Duration::from_secs(40),
            under_way: 4,
            busy: 0.75,
            pause_millis: 25,
            cancels: 0.0,
        }
    }
}

impl Run {
    /// A run in which nobody has called yet.
    pub fn new(manner: Manner) -> anyhow::Result<Self> {
        Ok(Self {
            manner,
            swallower: None,
            window: Window::default(),
            http: reqwest::Client::builder().no_proxy().build()?,
            once: reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build()?,
            life: watch::Sender::new(None),
            next_address: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
            stage: watch::Sender::new(Stage::Load),
            ledger: Mutex::default(),
            marks: AtomicU64::new(0),
            began: Instant::now(),
            acknowledged_at: AtomicU64::new(0),
        })
    }

    /// The servers are there, at these addresses.
    pub fn lives(&self, addresses: &[&str]) {
        let number = self.ended.load(Ordering::SeqCst);
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        self.life.send_replace(Some(Arc::new(Life { number, addresses })));
    }

    /// The server is about to be killed: broken connections are no surprise.
    pub fn is_about_to_die(&self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    /// The server is gone. Nobody calls its address, which may be somebody else's soon.
    pub fn is_dead(&self) {
        self.life.send_replace(None);
    }

    /// Tells the clients what to do from now on.
    pub fn enter(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    /// What the clients do.
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// What they were told.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters what must not have happened.
    pub fn fault(&self, fault: String) {
        self.ledger().faults.push(fault);
    }

    /// Text that nobody else uses. It is the name of a fact, too.
    pub fn mark(&self) -> String {
        format!("mark_{}", self.marks.fetch_add(1, Ordering::Relaxed))
    }

    /// When a change was acknowledged last.
    pub fn acknowledged_at(&self) -> Instant {
        self.began + Duration::from_micros(self.acknowledged_at.load(Ordering::SeqCst))
    }

    /// An address of a server, once it is there.
    pub async fn address(&self) -> anyhow::Result<String> {
        let life = self.life().await?;
        self.address_of(&life)
    }

    fn address_of(&self, life: &Life) -> anyhow::Result<String> {
        let turn = self.next_address.fetch_add(1, Ordering::Relaxed);
        life.addresses.get(turn % life.addresses.len().max(1)).cloned().context("an address")
    }

    async fn life(&self) -> anyhow::Result<Arc<Life>> {
        let mut life = self.life.subscribe();
        let up = tokio::time::timeout(self.manner.patience, life.wait_for(Option::is_some)).await;
        let up = up.context("the server did not come back")??;
        up.clone().context("a server")
    }

    /// Reads, as often as it takes.
    pub async fn ask(&self, path: &str) -> anyhow::Result<Value> {
        let until = Instant::now() + self.manner.patience;
        let call = Call::read(path);
        loop {
            let life = self.life().await?;
            match self.send(&life, &call, None).await {
                Outcome::Answered(200, answer) => return Ok(answer),
                Outcome::Answered(503 | 504 | 429, _) => {}
                Outcome::Answered(status, answer) => bail!("GET {path} answered {status}: {answer}"),
                Outcome::NotSent | Outcome::Abandoned => {}
                Outcome::Unanswered(why) => self.check_cut(&life, path, &why),
            }
            if Instant::now() > until {
                bail!("GET {path} got no answer in {} s", self.manner.patience.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reads all pages of a list.
    pub async fn ask_all(&self, path: &str, list: &str) -> anyhow::Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let mark = if path.contains('?') { '&' } else { '?' };
            let page = self.ask(&format!("{path}{mark}pageSize=500&pageToken={page_token}")).await?;
            all.extend(page[list].as_array().cloned().unwrap_or_default());
            page["nextPageToken"].as_str().unwrap_or_default().clone_into(&mut page_token);
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Does what needs no record, such as asking for work. None when no answer came.
    pub async fn try_once(&self, path: &str, body: Value) -> anyhow::Result<Option<Value>> {
        let life = self.life().await?;
        let call = Call { method: Method::POST, body, ..Call::read(path) };
        match self.send(&life, &call, None).await {
            Outcome::Answered(200, answer) => return Ok(Some(answer)),
            Outcome::Answered(503 | 504 | 429, _) | Outcome::NotSent | Outcome::Abandoned => {}
            Outcome::Answered(status, answer) => {
                self.fault(format!("POST {path} answered {status}: {answer}"));
            }
            Outcome::Unanswered(why) => self.check_cut(&life, path, &why),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(None)
    }

    /// Asks for a change until there is an answer, and enters it. None when it was refused.
    pub async fn tell(
        &self,
        random: &mut StdRng,
        kind: Kind,
        (instance, mark): (&str, &str),
        path: &str,
        body: Value,
    ) -> anyhow::Result<Option<Value>> {
        let method = if kind == Kind::Context { Method::PATCH } else { Method::POST };
        let request_id = format!("{}-{mark}-{}", self.manner.process, random.random::<u32>());
        let call = Call { method, path: path.to_owned(), body, request_id };
        let swallowed = match &self.swallower {
            Some(swallower) if swallower.wants(kind) => self.swallow(swallower.as_ref(), &call).await,
            _ => None,
        };
        let abandon =
            random.random_bool(ABANDONS).then(|| Duration::from_micros(random.random_range(1_000..60_000)));
        let (status, answer, in_doubt) = self.settle(kind, &call, abandon).await?;
        let in_doubt = in_doubt || swallowed.is_some();
        if let Some(first) = swallowed {
            self.compare_swallowed(kind, &call, &first, (status, &answer));
        }
        let done = (200..300).contains(&status);
        let told = Told {
            kind,
            instance: instance.to_owned(),
            mark: mark.to_owned(),
            call: call.clone(),
            answer: done.then(|| answer.clone()),
            in_doubt,
        };
        self.enter_told(told.clone(), status, &answer);
        if done && (in_doubt || random.random_bool(REPEATS)) {
            self.repeat(&told).await?;
        }
        Ok(done.then_some(answer))
    }

    fn enter_told(&self, told: Told, status: u16, answer: &Value) {
        let mut ledger = self.ledger();
        let tally = ledger.tally(told.kind);
        if told.answer.is_some() {
            tally.acknowledged += 1;
            // What is created answers 201, and 200 once it is there already.
            tally.found_done += u64::from(told.in_doubt && told.kind.creates() && status == 200);
            let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.acknowledged_at.store(micros, Ordering::SeqCst);
        } else {
            let reason = reason(answer);
            *tally.refused.entry(reason.clone()).or_default() += 1;
            if !told.kind.may_be_refused(&reason) {
                let fault =
                    format!("{:?} was refused with {status}: {answer}; {}", told.kind, told.call.body);
                ledger.faults.push(fault);
            }
        }
        ledger.told.push(told);
    }

    /// Sends a call whose reply somebody between takes away, and gives that reply.
    async fn swallow(&self, swallower: &dyn Swallower, call: &Call) -> Option<(u16, Value)> {
        let request = self.request(&self.once, &swallower.address(), call);
        // No answer comes back; the connection ends once there was one.
        let _lost = request.timeout(self.manner.answer_time).send().await;
        let (status, answer) = swallower.reply(&call.request_id)?;
        (200..300).contains(&status).then_some((status, answer))
    }

    fn compare_swallowed(&self, kind: Kind, call: &Call, first: &(u16, Value), again: (u16, &Value)) {
        if again == (200, &first.1) || (again.0 == first.0 && first.1 == *again.1 && !kind.creates()) {
            if let Some(swallower) = &self.swallower {
                swallower.repeated(kind);
            }
        } else {
            self.fault(format!(
                "{kind:?} {}: the lost reply was {} {}, the repeat gave {} {}",
                call.request_id, first.0, first.1, again.0, again.1
            ));
        }
    }

    /// Repeats what was done, and compares the answers.
    pub async fn repeat(&self, told: &Told) -> anyhow::Result<()> {
        let Some(first) = &told.answer else { return Ok(()) };
        let (status, mut again, _) = self.settle(told.kind, &told.call, None).await?;
        let mut first = first.clone();
        // A link begins with the address of the server, which may be another one after every start.
        for answer in [&mut first, &mut again] {
            if let Some(url) = answer["url"].as_str().and_then(|url| url.split_once("/external/")) {
                answer["url"] = json!(url.1);
            }
        }
        let is_first = (status, &again) == (200, &first);
        if !is_first && (status != 201 || told.kind.creates()) {
            self.fault(format!(
                "{:?} {} was repeated: first {first}, then {status} {again}",
                told.kind, told.call.request_id
            ));
        }
        self.ledger().tally(told.kind).compared += 1;
        Ok(())
    }

    /// Sends a call until it has an answer that no later one changes. Tells whether it once had none.
    pub async fn settle(
        &self,
        kind: Kind,
        call: &Call,
        mut abandon: Option<Duration>,
    ) -> anyhow::Result<(u16, Value, bool)> {
        let mut in_doubt = false;
        let until = Instant::now() + self.manner.patience;
        loop {
            let life = self.life().await?;
            match self.send(&life, call, abandon.take()).await {
                Outcome::Answered(status, answer) if is_put_off(status, &answer) => {
                    let reason = reason(&answer);
                    *self.ledger().put_off.entry(format!("{status} {reason}")).or_default() += 1;
                    // It may have been done all the same.
                    in_doubt = true;
                }
                Outcome::Answered(status, answer) => return Ok((status, answer, in_doubt)),
                Outcome::NotSent => {}
                Outcome::Abandoned => {
                    self.ledger().tally(kind).abandoned += 1;
                    in_doubt = true;
                }
                Outcome::Unanswered(why) => {
                    self.check_cut(&life, &call.path, &why);
                    let mut ledger = self.ledger();
                    *ledger.unanswered.entry(life.number).or_default() += 1;
                    ledger.tally(kind).killed += 1;
                    in_doubt = true;
                }
            }
            if Instant::now() > until {
                bail!("{kind:?} {} got no answer in {} s", call.path, self.manner.patience.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Where one server is alone, only a kill may cut a connection.
    fn check_cut(&self, life: &Life, path: &str, why: &str) {
        if self.manner.is_alone && self.ended.load(Ordering::SeqCst) <= life.number {
            self.fault(format!("{path}: the connection broke, and nobody killed the server: {why}"));
        }
    }

    fn request(&self, http: &reqwest::Client, address: &str, call: &Call) -> reqwest::RequestBuilder {
        let mut request = http.request(call.method.clone(), format!("{address}{}", call.path));
        if !call.request_id.is_empty() {
            request = request.header("idempotency-key", &call.request_id);
        }
        if let Some(keys) = &self.manner.keys {
            request = request.bearer_auth(keys.of(call));
        }
        if !call.body.is_null() {
            request = request.json(&call.body);
        }
        request
    }

    async fn send(&self, life: &Life, call: &Call, abandon: Option<Duration>) -> Outcome {
        let Ok(address) = self.address_of(life) else { return Outcome::NotSent };
        let (counts, sent) = (self.window.is_open(), Instant::now());
        let request = self.request(&self.http, &address, call);
        let exchange = async {
            let response = request.timeout(self.manner.answer_time).send().await?;
            let status = response.status().as_u16();
            Ok::<_, reqwest::Error>((status, response.bytes().await?))
        };
        let answered = match abandon {
            Some(patience) => match tokio::time::timeout(patience, exchange).await {
                Ok(answered) => answered,
                Err(_) => return Outcome::Abandoned,
            },
            None => exchange.await,
        };
        let outcome = match answered {
            Ok((status, body)) => match serde_json::from_slice(&body) {
                Ok(answer) => Outcome::Answered(status, answer),
                Err(error) => Outcome::Unanswered(format!("{status} with what is no JSON: {error}")),
            },
            Err(error) if error.is_connect() => Outcome::NotSent,
            Err(error) => Outcome::Unanswered(format!("{:#}", anyhow::Error::new(error))),
        };
        if counts {
            self.window.count(call, &outcome, sent.elapsed());
        }
        outcome
    }

    /// How many changes each life of the server left unanswered.
    pub fn unanswered(&self) -> BTreeMap<u64, u64> {
        self.ledger().unanswered.clone()
    }
}

/// The server asks to come again.
fn is_put_off(status: u16, answer: &Value) -> bool {
    matches!(status, 429 | 503 | 504) || reason(answer) == "REQUEST_IN_PROGRESS"
}

/// The reason of an error.
pub fn reason(answer: &Value) -> String {
    let details = answer["error"]["details"].as_array().map(Vec::as_slice).unwrap_or_default();
    let reason = details.iter().find_map(|detail| detail["reason"].as_str());
    reason.unwrap_or_default().to_owned()
}
