//! What a run costs: the time that its processes spend on the processors, by what they are. On a machine that others use,
//! too, it says more than the clock does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::machine::SERVICES;

/// Between two looks. What a process did after the last look before it was killed is not seen.
const EVERY: Duration = Duration::from_secs(1);
/// Of the kernel's clock, in milliseconds: 100 a second on every machine that Linux runs on.
const TICK_MILLIS: u64 = 10;

/// Time on the processors, in milliseconds, by what a process is.
pub type Spent = BTreeMap<&'static str, u64>;

/// What processes are and their ticks, by number and time of birth, because numbers are used again.
type Seen = BTreeMap<(u32, u64), (&'static str, u64)>;

/// Looks at this process and at all below it.
#[derive(Debug, Default)]
pub struct Meter {
    seen: Mutex<Seen>,
}

/// A line of `/proc/…/stat`.
struct Stat {
    process: u32,
    parent: u32,
    name: String,
    born: u64,
    ticks: u64,
}

impl Meter {
    /// Looks for as long as the program runs.
    pub fn start() -> Arc<Self> {
        let meter = Arc::new(Self::default());
        let own = meter.clone();
        tokio::spawn(async move {
            loop {
                own.look();
                tokio::time::sleep(EVERY).await;
            }
        });
        meter
    }

    /// What was spent since the start.
    pub fn spent(&self) -> Spent {
        let mut spent = Spent::new();
        for (what, ticks) in self.seen().values() {
            *spent.entry(what).or_default() += ticks * TICK_MILLIS;
        }
        spent
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks now.
    pub fn look(&self) {
        let Ok(entries) = fs::read_dir("/proc") else { return };
        let numbers =
            entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let stats: Vec<Stat> = numbers.filter_map(Stat::read).collect();
        let mut below = BTreeSet::from([std::process::id()]);
        loop {
            let known = below.len();
            below.extend(
                stats
                    .iter()
                    .filter(|stat| below.contains(&stat.parent))
                    .map(|stat| stat.process)
                    .collect::<Vec<_>>(),
            );
            if below.len() == known {
                break;
            }
        }
        let mut seen = self.seen();
        for stat in stats.iter().filter(|stat| below.contains(&stat.process)) {
            seen.insert((stat.process, stat.born), (stat.what(), stat.ticks));
        }
    }
}

impl Stat {
    /// None where it has ended meanwhile.
    fn read(process: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The name is in brackets and may hold any character.
        let (head, rest) = text.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let parent = fields.get(1)?.parse().ok()?;
        Some(Self { process, parent, name, born: number(19)?, ticks: number(11)? + number(12)? })
    }

    fn what(&self) -> &'static str {
        match self.name.as_str() {
            "phasegate" => {
                let said = fs::read_to_string(format!("/proc/{}/cmdline", self.process)).unwrap_or_default();
                let mut words = said.split('\0').skip_while(|word| *word != "serve").skip(1);
                let service = words.next().unwrap_or_default();
                SERVICES.into_iter().find(|known| *known == service).unwrap_or("phasegate")
            }
            "postgres" => "PostgreSQL",
            "redis-server" => "Redis",
            _ if self.process == std::process::id() => "clients",
            _ => "others",
        }
    }
}
