//! What costs something before there is any load: how soon `phasegate dev` answers, memory at rest, and the program's size.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::Instant;

use super::figure::Figure;
use super::place::Place;

/// Starts on an empty folder; the median counts.
const STARTS: usize = 5;
/// From a start to rest: by then what a start needed once is done.
const REST: Duration = Duration::from_secs(4);
/// A start that takes longer hangs.
const PATIENCE: Duration = Duration::from_mins(1);

const STARTED_MILLIS_MAX: f64 = 300.0;
const DEV_MIB_MAX: f64 = 80.0;
const SERVICE_MIB_MAX: f64 = 60.0;
const PROGRAM_MIB_MAX: f64 = 60.0;

/// What was measured at rest.
#[derive(Debug, Default, Clone)]
pub(super) struct Cold {
    /// From the start of a process on an empty folder until it has answered, from the shortest to the longest.
    pub(super) started: Vec<Duration>,
    /// Resident memory by process, in MiB.
    pub(super) resident: BTreeMap<String, f64>,
    /// Size of the program, in MiB.
    pub(super) program: f64,
}

/// A `phasegate dev` that has answered.
struct Dev {
    process: tokio::process::Child,
    took: Duration,
}

/// Starts `phasegate dev` again and again, each time on an empty folder.
pub(super) async fn dev(program: &Path, folder: &Path) -> anyhow::Result<Cold> {
    let mut started = Vec::new();
    let mut resident = BTreeMap::new();
    for number in 0..STARTS {
        let mut dev = start(program, &folder.join(format!("cold-{number}"))).await?;
        started.push(dev.took);
        if number == STARTS - 1 {
            tokio::time::sleep(REST).await;
            let process = dev.process.id().context("phasegate dev has ended")?;
            resident.insert("phasegate dev".to_owned(), resident_mib(process)?);
        }
        dev.process.kill().await?;
    }
    started.sort_unstable();
    Ok(Cold { started, resident, program: size_mib(program)? })
}

/// Looks at the services of a place that nobody has called much.
pub(super) async fn serve(program: &Path, place: &Place) -> anyhow::Result<Cold> {
    tokio::time::sleep(REST).await;
    Ok(Cold { started: Vec::new(), resident: place.resident()?, program: size_mib(program)? })
}

async fn start(program: &Path, data: &Path) -> anyhow::Result<Dev> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let began = Instant::now();
    let mut process = Command::new(program)
        .args(["dev", "--port", "0", "--log", "warn", "--data"])
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("phasegate dev")?;
    let mut lines = BufReader::new(process.stdout.take().context("its output")?).lines();
    let answered = async {
        while let Some(line) = lines.next_line().await? {
            if let Some((_, address)) = line.split_once("listens on ") {
                let url = format!("{}/api/processes", address.trim());
                http.get(url).send().await?.error_for_status()?;
                return Ok(began.elapsed());
            }
        }
        bail!("phasegate dev ended before it listened")
    };
    let took = tokio::time::timeout(PATIENCE, answered).await.context("phasegate dev does not start")??;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(Dev { process, took })
}

/// Memory of a process that is in place, `VmRSS`: its own and what it has mapped of files.
pub(super) fn resident_mib(process: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    resident_of(&status).with_context(|| format!("the memory of process {process}"))
}

fn resident_of(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1_024.0)
}

#[expect(clippy::cast_precision_loss, reason = "a size of some megabytes")]
fn size_mib(program: &Path) -> anyhow::Result<f64> {
    Ok(fs::metadata(program)?.len() as f64 / 1_048_576.0)
}

impl Cold {
    /// What was measured, with its bounds.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        if let Some(median) = self.started.get(self.started.len() / 2) {
            let what = format!("dev on an empty folder answers, median of {}", self.started.len());
            let millis = median.as_secs_f64() * 1_000.0;
            figures.push(Figure::at_most(what, millis, STARTED_MILLIS_MAX, "ms"));
        }
        let largest = self.resident.iter().max_by(|a, b| a.1.total_cmp(b.1));
        if let Some((name, mib)) = largest {
            let is_dev = self.resident.len() == 1;
            let bound = if is_dev { DEV_MIB_MAX } else { SERVICE_MIB_MAX };
            let what = if is_dev { name.clone() } else { format!("the largest service, {name}") };
            figures.push(Figure::at_most(format!("{what}, resident at rest (VmRSS)"), *mib, bound, "MiB"));
        }
        // Whether it was built so cannot be seen from outside.
        let what = "the program, if built as the release profile says (LTO)";
        figures.push(Figure::at_most(what, self.program, PROGRAM_MIB_MAX, "MiB"));
        figures
    }

    /// All of it, for machines.
    pub(super) fn to_json(&self) -> Value {
        let started: Vec<f64> = self.started.iter().map(|took| took.as_secs_f64() * 1_000.0).collect();
        json!({ "startedMs": started, "residentMib": self.resident, "programMib": self.program })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_status() {
        let status = "Name:\tphasegate\nVmHWM:\t   99999 kB\nVmRSS:\t   51200 kB\nRssAnon:\t 1 kB\n";
        assert_eq!(resident_of(status), Some(50.0));
        assert_eq!(resident_of("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn the_largest_service_and_the_median_count() {
        let cold = Cold {
            started: [100, 200, 900].map(Duration::from_millis).to_vec(),
            resident: BTreeMap::from([("gateway".to_owned(), 30.0), ("instance".to_owned(), 61.0)]),
            program: 40.0,
        };
        let figures = cold.figures();
        assert_eq!(figures.iter().map(|figure| figure.value).collect::<Vec<_>>(), [200.0, 61.0, 40.0]);
        assert!(figures[1].what.contains("instance"));
        assert!(!figures[1].is_reached());
    }
}
