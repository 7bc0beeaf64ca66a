//! A table of wrong messages: each is sent over both doors, must be refused exactly as its row says, and must change nothing.

use std::fmt::Display;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tonic::Status;

use crate::{Answer, Contract, Refusal, Standing, World, find, with_number};

/// One wrong message.
#[derive(Debug, Clone)]
pub struct Case {
    /// Id in `list.txt`.
    pub row: &'static str,
    /// What is wrong with it, for whoever reads a failure.
    pub what: String,
    /// Method, by its name alone.
    pub method: &'static str,
    /// As JSON.
    pub message: Value,
    /// gRPC code, HTTP status and reason: `NOT_FOUND 404 PROCESS_NOT_FOUND`.
    pub refusal: String,
    /// Wrong fields, each with its code where that is not the reason: `/phases PHASES_EMPTY; /id`. Empty for none.
    pub at: String,
}

/// Goes through cases on one server, and tells of all that went wrong at the end.
#[derive(Debug)]
pub struct Check<'a> {
    world: &'a World,
    contract: Contract,
    standing: Standing,
    count: usize,
    faults: Vec<String>,
}

impl Case {
    /// A row of a table.
    pub fn new(
        row: &'static str,
        what: impl Display,
        method: &'static str,
        message: Value,
        refusal: impl Display,
        at: impl Display,
    ) -> Self {
        Self {
            row,
            what: what.to_string(),
            method,
            message,
            refusal: refusal.to_string(),
            at: at.to_string(),
        }
    }
}

impl<'a> Check<'a> {
    /// Waits until nothing moves any more, and remembers how everything stands.
    pub async fn new(world: &'a World) -> anyhow::Result<Self> {
        let contract = Contract::read()?;
        Ok(Self { world, contract, standing: world.settled().await?, count: 0, faults: Vec::new() })
    }

    /// Sends a wrong message over both doors.
    pub async fn refused(&mut self, case: Case) -> anyhow::Result<()> {
        let outcome = self.try_both(&case).await;
        self.note(case.row, &format!("{} ({})", case.what, case.method), outcome).await
    }

    /// Sends one over gRPC only: REST cannot say it.
    pub async fn refused_by_grpc(&mut self, case: Case) -> anyhow::Result<()> {
        let outcome = self.try_grpc(&case).await.map(|_| ());
        self.note(case.row, &format!("{} ({}, gRPC)", case.what, case.method), outcome).await
    }

    /// Sends one over gRPC with the enum at a pointer as a number of which there is no word: REST cannot say it.
    pub async fn refused_with_number(
        &mut self,
        case: Case,
        pointer: &str,
        number: i32,
    ) -> anyhow::Result<()> {
        let bytes = with_number(case.method, &case.message, pointer, number)?;
        let answer = self.world.doors.grpc_bytes(&find(case.method)?, bytes).await?;
        let outcome = self.is_refused_by_grpc(answer, &case).map(|_| ());
        self.note(case.row, &format!("{} ({}, {pointer} = {number})", case.what, case.method), outcome).await
    }

    /// Sends one over REST only, by any path and with any body: gRPC cannot say it.
    pub async fn refused_by_rest(
        &mut self,
        row: &str,
        what: impl Display,
        request: reqwest::RequestBuilder,
        refusal: &str,
        at: &str,
    ) -> anyhow::Result<()> {
        let outcome = match self.world.doors.send(request).await {
            Ok(answer) => self.is_refused(&answer, None, refusal, at).map(|_| ()),
            Err(error) => Err(error),
        };
        self.note(row, &format!("{what} (REST)"), outcome).await
    }

    /// Sends a message that is right and must change nothing, over both doors.
    pub async fn accepted(&mut self, case: Case) -> anyhow::Result<()> {
        let outcome = self.try_accepted(&case).await;
        self.note(case.row, &format!("{} ({})", case.what, case.method), outcome).await
    }

    /// Notes what came of something else that must change nothing.
    pub async fn note(&mut self, row: &str, what: &str, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
        self.count += 1;
        if let Err(error) = outcome {
            self.faults.push(format!("{row} {what}: {error:#}"));
        }
        let standing = self.world.rows.read().await?;
        let changes = standing.changes_since(&self.standing);
        if !changes.is_empty() {
            self.faults.push(format!("{row} {what}: {}", changes.join(", ")));
            // The next one is not to blame for it.
            self.standing = self.world.settled().await?;
        }
        Ok(())
    }

    /// Tells of everything that went wrong.
    pub fn done(self) -> anyhow::Result<()> {
        ensure!(self.count > 0, "no case was tried");
        if self.faults.is_empty() {
            return Ok(());
        }
        bail!("{} faults in {} cases:\n\n  {}\n", self.faults.len(), self.count, self.faults.join("\n  "))
    }

    async fn try_both(&self, case: &Case) -> anyhow::Result<()> {
        let by_grpc = self.try_grpc(case).await.context("over gRPC")?;
        let answer = self.world.doors.rest(case.method, &case.message).await?;
        let by_rest =
            self.is_refused(&answer, Some(case.method), &case.refusal, &case.at).context("over REST")?;
        ensure!(by_grpc == by_rest, "differs: {by_grpc:?} over gRPC, {by_rest:?} over REST");
        Ok(())
    }

    async fn try_grpc(&self, case: &Case) -> anyhow::Result<Refusal> {
        let answer = self.world.doors.grpc(case.method, &case.message).await?;
        self.is_refused_by_grpc(answer, case)
    }

    fn is_refused_by_grpc(&self, answer: Result<Value, Status>, case: &Case) -> anyhow::Result<Refusal> {
        let status = match answer {
            Ok(answer) => bail!("was not refused: {answer}"),
            Err(status) => status,
        };
        let refusal = Refusal::of_status(&status);
        let mut words = case.refusal.split(' ');
        let (code, http, reason) = (words.next(), words.next(), words.next());
        ensure!(
            Some(refusal.code.as_str()) == code && Some(refusal.reason.as_str()) == reason,
            "expected {}, and it is {} {}: {}",
            case.refusal,
            refusal.code,
            refusal.reason,
            refusal.message
        );
        self.is_well_formed(&refusal, Some(case.method), http.unwrap_or_default(), &case.at)?;
        Ok(refusal)
    }

    fn is_refused(
        &self,
        answer: &Answer,
        method: Option<&str>,
        expected: &str,
        at: &str,
    ) -> anyhow::Result<Refusal> {
        ensure!(answer.status >= 400, "was not refused: {} {}", answer.status, answer.body);
        let refusal = Refusal::of_body(&answer.body).with_context(|| answer.status.to_string())?;
        let found = format!("{} {} {}", refusal.code, answer.status, refusal.reason);
        ensure!(found == expected, "expected {expected}, and it is {found}: {}", refusal.message);
        ensure!(answer.body["error"]["code"] == answer.status, "the body names another status");
        self.is_well_formed(&refusal, method, &answer.status.to_string(), at)?;
        let waits = answer.headers.contains_key("retry-after");
        ensure!(waits == refusal.retries, "Retry-After and RetryInfo belong together");
        Ok(refusal)
    }

    fn is_well_formed(
        &self,
        refusal: &Refusal,
        method: Option<&str>,
        http: &str,
        at: &str,
    ) -> anyhow::Result<()> {
        ensure!(refusal.domain == "phasegate", "the domain is {:?}", refusal.domain);
        let message = &refusal.message;
        ensure!(!message.is_empty() && !message.ends_with('.'), "the message is {message:?}");
        ensure!(
            refusal.at() == at,
            "expected {at:?} for its fields, and they are {:?}: {message}",
            refusal.at()
        );
        self.contract.check(method, refusal, http.parse()?)
    }

    async fn try_accepted(&self, case: &Case) -> anyhow::Result<()> {
        if let Err(status) = self.world.doors.grpc(case.method, &case.message).await? {
            bail!("was refused over gRPC: {status}");
        }
        let answer = self.world.doors.rest(case.method, &case.message).await?;
        let expected: u16 = case.refusal.parse()?;
        ensure!(answer.status == expected, "REST answers {} {}, not {expected}", answer.status, answer.body);
        Ok(())
    }
}
