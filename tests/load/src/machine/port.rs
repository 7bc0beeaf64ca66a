//! Ports that stay ours: below those that the system gives to outgoing connections, which could take the port of a process
//! while it is down.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::Context as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

/// Below the range of outgoing connections (32768 and up) and above what servers usually have.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// Free ports, each once.
#[derive(Debug)]
pub struct Ports {
    candidates: Vec<u16>,
}

impl Ports {
    /// All that are free now, in an order by chance.
    pub fn new(random: &mut StdRng) -> Self {
        let mut candidates: Vec<u16> = RANGE.collect();
        candidates.shuffle(random);
        Self { candidates }
    }

    /// A port that nobody listens on.
    pub fn free(&mut self) -> anyhow::Result<u16> {
        loop {
            let port = self.candidates.pop().context("no free port is left")?;
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(port);
            }
        }
    }
}
