//! What somebody waits for who looks at lists, through the gateway.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use phasegate_load::machine::Process;
use serde_json::Value;
use tokio::time::Instant;

use super::place::{PARKED_PEOPLE, Place};
use super::record::Latencies;

/// Each page is asked for so often.
const TIMES: usize = 60;
/// Entries of a page.
const PAGE: u32 = 50;
/// A later page comes after so many of the largest, where there are as many.
const LATER: usize = 20;
const LARGEST: u32 = 500;
/// A scrape may take so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Somebody who looks.
#[derive(Debug)]
pub(super) struct Reader {
    http: reqwest::Client,
    address: String,
    key: String,
}

impl Reader {
    /// With the key of an operator.
    pub(super) fn of(place: &Place) -> anyhow::Result<Self> {
        let key = place.keys.as_ref().map(|keys| keys.operator.clone()).unwrap_or_default();
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
        Ok(Self { http, address: place.address.clone(), key })
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.address);
        let answer = self.http.get(&url).bearer_auth(&self.key).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{url} answered {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Asks for each page again and again.
    pub(super) async fn pages(&self, instance: &str) -> anyhow::Result<BTreeMap<String, Latencies>> {
        let of_instance = format!("/api/processes/instances/{instance}");
        let person = PARKED_PEOPLE[0];
        let mut pages = vec![
            ("one instance".to_owned(), of_instance.clone()),
            ("audit log of an instance".to_owned(), format!("{of_instance}/audit?pageSize={PAGE}")),
            ("timeline of an instance".to_owned(), format!("{of_instance}/timeline")),
            ("approvals of an instance".to_owned(), format!("{of_instance}/approvals?pageSize={PAGE}")),
            ("artifacts of an instance".to_owned(), format!("{of_instance}/artifacts?pageSize={PAGE}")),
        ];
        let instances = "/api/processes/instances?";
        for (name, list) in [
            ("instances", instances.to_owned()),
            ("instances that run", format!("{instances}status=running&")),
            ("approvals", "/api/approvals?".to_owned()),
            ("approvals of a person", format!("/api/approvals?approverId={person}&")),
        ] {
            let mut token = String::new();
            for _ in 0..LATER {
                let page = self.get(&format!("{list}pageSize={LARGEST}&pageToken={token}")).await?;
                let next = page["nextPageToken"].as_str().unwrap_or_default();
                if next.is_empty() {
                    break;
                }
                next.clone_into(&mut token);
            }
            pages.push((format!("{name}, first page"), format!("{list}pageSize={PAGE}")));
            pages.push((format!("{name}, later page"), format!("{list}pageSize={PAGE}&pageToken={token}")));
        }
        let mut latencies = BTreeMap::new();
        for (name, path) in pages {
            let mut samples = Vec::new();
            for _ in 0..TIMES {
                let began = Instant::now();
                self.get(&path).await?;
                samples.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            latencies.insert(name, Latencies::of(samples));
        }
        Ok(latencies)
    }

    /// Whether the audit trail of an instance is whole, and of how many entries.
    pub(super) async fn verify(&self, instance: &str) -> anyhow::Result<(bool, u64)> {
        let proof = self.get(&format!("/api/processes/instances/{instance}/audit/verify")).await?;
        let entries = proof["entries"].as_f64().context("a number of entries")?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number")]
        Ok((proof["intact"] == true, entries as u64))
    }

    /// How long a service takes to tell its metrics, or to say that it cannot.
    pub(super) async fn scrape(&self, service: &Process) -> Duration {
        let began = Instant::now();
        let answer = self.http.get(format!("http://127.0.0.1:{}/metrics", service.admin)).send().await;
        if let Ok(answer) = answer {
            // How long it took is what is asked.
            let _told = answer.bytes().await;
        }
        began.elapsed()
    }
}
