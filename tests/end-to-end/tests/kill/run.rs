//! A run: the server of the moment, and calls that are repeated until they have an answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rand::Rng as _;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::ledger::{Call, Kind, Ledger, Told};

/// Longest wait for one answer, and for the server to be there.
const PATIENCE: Duration = Duration::from_secs(40);
/// How often a client does not wait for its answer.
const ABANDONS: f64 = 0.08;
/// How often a client repeats a call that it knows to be done.
const REPEATS: f64 = 0.1;

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Everything.
    Load,
    /// Only what brings the instances to their end.
    Closing,
    /// Nothing.
    Over,
}

/// The server between two kills.
#[derive(Debug)]
struct Life {
    number: u64,
    address: String,
}

/// What all clients share.
#[derive(Debug)]
pub(crate) struct Run {
    /// Id of the definition.
    pub(crate) process: &'static str,
    http: reqwest::Client,
    life: watch::Sender<Option<Arc<Life>>>,
    /// Lives that were ended, or are being ended at this moment.
    ended: AtomicU64,
    stage: watch::Sender<Stage>,
    ledger: Mutex<Ledger>,
    marks: AtomicU64,
}

/// What comes of sending a call.
enum Outcome {
    Answered(u16, Value),
    /// Nobody was there to take it.
    NotSent,
    /// It was sent, and no answer came.
    Unanswered(String),
    /// The client did not wait.
    Abandoned,
}

impl Run {
    pub(crate) fn new(process: &'static str) -> anyhow::Result<Self> {
        Ok(Self {
            process,
            http: reqwest::Client::builder().no_proxy().build()?,
            life: watch::Sender::new(None),
            ended: AtomicU64::new(0),
            stage: watch::Sender::new(Stage::Load),
            ledger: Mutex::default(),
            marks: AtomicU64::new(0),
        })
    }

    /// The server is there, at an address.
    pub(crate) fn lives(&self, address: &str) {
        let number = self.ended.load(Ordering::SeqCst);
        self.life.send_replace(Some(Arc::new(Life { number, address: address.to_owned() })));
    }

    /// The server is about to be killed: broken connections are no surprise.
    pub(crate) fn is_about_to_die(&self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    /// The server is gone. Nobody calls its address, which may be somebody else's soon.
    pub(crate) fn is_dead(&self) {
        self.life.send_replace(None);
    }

    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    pub(crate) fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fault(&self, fault: String) {
        self.ledger().faults.push(fault);
    }

    /// Text that nobody else uses. It is the name of a fact, too.
    pub(crate) fn mark(&self) -> String {
        format!("mark_{}", self.marks.fetch_add(1, Ordering::Relaxed))
    }

    /// The address of the server, once it is there.
    pub(crate) async fn address(&self) -> anyhow::Result<String> {
        Ok(self.life().await?.address.clone())
    }

    async fn life(&self) -> anyhow::Result<Arc<Life>> {
        let mut life = self.life.subscribe();
        let up = tokio::time::timeout(PATIENCE, life.wait_for(Option::is_some)).await;
        let up = up.context("the server did not come back")??;
        up.clone().context("a server")
    }

    /// Reads, as often as it takes.
    pub(crate) async fn ask(&self, path: &str) -> anyhow::Result<Value> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let life = self.life().await?;
            let call = Call {
                method: Method::GET,
                path: path.to_owned(),
                body: Value::Null,
                request_id: String::new(),
            };
            match self.send(&life, &call, None).await {
                Outcome::Answered(200, answer) => return Ok(answer),
                Outcome::Answered(503 | 504 | 429, _) => {}
                Outcome::Answered(status, answer) => bail!("GET {path} answered {status}: {answer}"),
                Outcome::NotSent | Outcome::Abandoned => {}
                Outcome::Unanswered(why) => self.check_cut(&life, path, &why),
            }
            if tokio::time::Instant::now() > until {
                bail!("GET {path} got no answer in {} s", PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reads all pages of a list.
    pub(crate) async fn ask_all(&self, path: &str, list: &str) -> anyhow::Result<Vec<Value>> {
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
    pub(crate) async fn try_once(&self, path: &str, body: Value) -> anyhow::Result<Option<Value>> {
        let life = self.life().await?;
        let request_id = String::new();
        let call = Call { method: Method::POST, path: path.to_owned(), body, request_id };
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
    pub(crate) async fn tell(
        &self,
        random: &mut StdRng,
        kind: Kind,
        (instance, mark): (&str, &str),
        path: &str,
        body: Value,
    ) -> anyhow::Result<Option<Value>> {
        let method = if kind == Kind::Context { Method::PATCH } else { Method::POST };
        let request_id = format!("{}-{mark}-{}", self.process, random.random::<u32>());
        let call = Call { method, path: path.to_owned(), body, request_id };
        let abandon =
            random.random_bool(ABANDONS).then(|| Duration::from_micros(random.random_range(1_000..60_000)));
        let (status, answer, in_doubt) = self.settle(kind, &call, abandon).await?;
        let done = (200..300).contains(&status);
        let told = Told {
            kind,
            instance: instance.to_owned(),
            mark: mark.to_owned(),
            call: call.clone(),
            answer: done.then(|| answer.clone()),
            in_doubt,
        };
        {
            let mut ledger = self.ledger();
            ledger.told.push(told.clone());
            let tally = ledger.tally(kind);
            if done {
                tally.acknowledged += 1;
                // What is created answers 201, and 200 once it is there already.
                tally.found_done += u64::from(in_doubt && creates(kind) && status == 200);
            } else {
                let reason = reason(&answer);
                *tally.refused.entry(reason.clone()).or_default() += 1;
                if !kind.may_be_refused(&reason) {
                    ledger
                        .faults
                        .push(format!("{kind:?} was refused with {status}: {answer}; {}", call.body));
                }
            }
        }
        if done && (in_doubt || random.random_bool(REPEATS)) {
            self.repeat(&told).await?;
        }
        Ok(done.then_some(answer))
    }

    /// Repeats what was done, and compares the answers.
    pub(crate) async fn repeat(&self, told: &Told) -> anyhow::Result<()> {
        let Some(first) = &told.answer else { return Ok(()) };
        let (status, mut again, _) = self.settle(told.kind, &told.call, None).await?;
        let mut first = first.clone();
        // A link begins with the address of the server, which is another one after every start.
        for answer in [&mut first, &mut again] {
            if let Some(url) = answer["url"].as_str().and_then(|url| url.split_once("/external/")) {
                answer["url"] = json!(url.1);
            }
        }
        let is_first = (status, &again) == (200, &first);
        if !is_first && (status != 201 || creates(told.kind)) {
            self.fault(format!(
                "{:?} {} was repeated: first {first}, then {status} {again}",
                told.kind, told.call.request_id
            ));
        }
        self.ledger().tally(told.kind).compared += 1;
        Ok(())
    }

    /// Sends a call until it has an answer. Tells whether it once had none.
    async fn settle(
        &self,
        kind: Kind,
        call: &Call,
        mut abandon: Option<Duration>,
    ) -> anyhow::Result<(u16, Value, bool)> {
        let mut in_doubt = false;
        let until = tokio::time::Instant::now() + PATIENCE;
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
            if tokio::time::Instant::now() > until {
                bail!("{kind:?} {} got no answer in {} s", call.path, PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Only a kill may cut a connection.
    fn check_cut(&self, life: &Life, path: &str, why: &str) {
        if self.ended.load(Ordering::SeqCst) <= life.number {
            self.fault(format!("{path}: the connection broke, and nobody killed the server: {why}"));
        }
    }

    async fn send(&self, life: &Life, call: &Call, abandon: Option<Duration>) -> Outcome {
        let mut request = self.http.request(call.method.clone(), format!("{}{}", life.address, call.path));
        if !call.request_id.is_empty() {
            request = request.header("idempotency-key", &call.request_id);
        }
        if !call.body.is_null() {
            request = request.json(&call.body);
        }
        let exchange = async {
            let response = request.timeout(PATIENCE).send().await?;
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
        match answered {
            Ok((status, body)) => match serde_json::from_slice(&body) {
                Ok(answer) => Outcome::Answered(status, answer),
                Err(error) => Outcome::Unanswered(format!("{status} with what is no JSON: {error}")),
            },
            Err(error) if error.is_connect() => Outcome::NotSent,
            Err(error) => Outcome::Unanswered(format!("{:#}", anyhow::Error::new(error))),
        }
    }

    /// How many changes each life of the server left unanswered.
    pub(crate) fn unanswered(&self) -> BTreeMap<u64, u64> {
        self.ledger().unanswered.clone()
    }
}

/// The server asks to come again.
fn is_put_off(status: u16, answer: &Value) -> bool {
    matches!(status, 429 | 503 | 504) || reason(answer) == "REQUEST_IN_PROGRESS"
}

/// Whether the answer tells by its status that something is new.
fn creates(kind: Kind) -> bool {
    matches!(kind, Kind::Start | Kind::Store | Kind::Request | Kind::Comment | Kind::Link)
}

/// The reason of an error.
pub(crate) fn reason(answer: &Value) -> String {
    let details = answer["error"]["details"].as_array().map(Vec::as_slice).unwrap_or_default();
    let reason = details.iter().find_map(|detail| detail["reason"].as_str());
    reason.unwrap_or_default().to_owned()
}
