//! How often somebody may call: each tenant, each caller of a tenant, and each address that calls without a credential, or
//! with one that is not ours.
//!
//! The budgets are common to all copies of the gateway and stand in Redis. A copy takes some calls out of one at a time
//! ([`Rate::batch`]) and spends them by itself, so most calls wait for nobody; and while a budget is used up, Redis is
//! not asked, either. That makes the limit a little unsharp: what one copy has taken and not spent is missing to the
//! others, and comes on top of a burst when it is spent later, so that at most a batch for each copy passes too much or
//! too little. While Redis is away each copy has the whole budget to itself: of n copies, up to n times as much passes.

mod budget;
mod lent;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use phasegate_principal::Principal;
use phasegate_telemetry::metrics::Counter;
use tokio::time::Instant;

use self::budget::Budget;
use self::lent::{Lent, Shared};
use crate::error::Error;
use crate::refusal::Refused;

pub use self::budget::Rate;

/// Accounts that are kept at a time. Whoever comes on top shares one with others of its kind, so that many addresses
/// cost no memory.
const ACCOUNTS_MAX: usize = 20_000;
/// An account that nobody has used for so long is as good as a fresh one, at any rate that makes sense.
const IDLE: Duration = Duration::from_mins(1);
/// Accounts are looked through this often, where there are too many.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// What proxies say of those that they speak for.
const FORWARDED_FOR: &str = "x-forwarded-for";

static LIMITED: Counter<1> = Counter::new(
    "phasegate_rate_limited_total",
    "Calls that were refused because their tenant, their caller or their address had made too many.",
    ["limit"],
);

/// How often somebody may call, over all copies of the gateway.
#[derive(Debug, Clone)]
pub struct Rates {
    /// All calls of one tenant. Nothing is no limit, here and below.
    pub tenant: Option<Rate>,
    /// All calls of one caller: one key, or one operator.
    pub caller: Option<Rate>,
    /// Calls from one address without a good credential, and pages of the portal. Of IPv6, a network of 64 bits counts
    /// as one address, because that is what one customer of a provider has.
    pub address: Option<Rate>,
    /// Proxies in front of the gateway that add the address of whoever calls to `X-Forwarded-For`. With none, that header
    /// is not believed, and the address is that of the connection.
    pub proxies: usize,
    /// Where the copies keep count together. Without it, each counts by itself.
    pub redis: Option<phasegate_bus::Settings>,
    /// How long a call waits for Redis before this copy counts by itself.
    pub patience: Duration,
}

/// From where a connection comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// What a budget is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Limit {
    Tenant,
    Caller,
    Address,
}

/// Whose budget it is: the tenant and the caller by name, or an address.
type Owner = (Limit, String);

/// Who has called how often.
#[derive(Debug)]
pub(crate) struct Ledger {
    rates: Rates,
    shared: Option<Shared>,
    accounts: Mutex<Accounts>,
}

#[derive(Debug)]
struct Accounts {
    open: BTreeMap<Owner, Arc<Account>>,
    swept: Instant,
}

#[derive(Debug)]
struct Account {
    /// Name of the budget in Redis.
    name: String,
    state: Mutex<State>,
    /// Held by the one call that asks Redis; the others wait for what it brings.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    used: Instant,
    /// Calls out of the common budget that this copy may spend.
    lent: u32,
    /// Until then there is nothing to be had.
    empty_until: Option<Instant>,
    /// What counts while this copy is alone.
    own: Budget,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            tenant: None,
            caller: None,
            address: None,
            proxies: 0,
            redis: None,
            patience: Duration::from_millis(20),
        }
    }
}

impl Limit {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Caller => "caller",
            Self::Address => "address",
        }
    }
}

impl Ledger {
    pub(crate) fn new(rates: Rates) -> Result<Self, Error> {
        let shared = rates.redis.as_ref().map(|settings| Shared::new(settings, rates.patience)).transpose();
        let shared = shared.map_err(|error| Error::Redis(error.category().to_owned()))?;
        let accounts = Accounts { open: BTreeMap::new(), swept: Instant::now() };
        Ok(Self { rates, shared, accounts: Mutex::new(accounts) })
    }

    /// Keeps in touch with Redis. Ends never.
    pub(crate) async fn watch(&self) {
        match &self.shared {
            Some(shared) => shared.watch().await,
            None => std::future::pending().await,
        }
    }

    /// Counts a call of somebody who is known.
    pub(crate) async fn called(&self, principal: &Principal) -> Result<(), Refused> {
        if let Some(rate) = self.rates.caller {
            self.spend((Limit::Caller, format!("{}/{}", principal.tenant, principal.id)), rate).await?;
        }
        if let Some(rate) = self.rates.tenant {
            self.spend((Limit::Tenant, principal.tenant.clone()), rate).await?;
        }
        Ok(())
    }

    /// Counts a call of somebody who is not known.
    pub(crate) async fn knocked(&self, address: Option<IpAddr>) -> Result<(), Refused> {
        match (self.rates.address, address) {
            (Some(rate), Some(address)) => self.spend((Limit::Address, network(address)), rate).await,
            (None, _) | (_, None) => Ok(()),
        }
    }

    /// Refuses an address whose budget is used up, without counting: nobody is asked about its credentials.
    pub(crate) fn admit(&self, address: Option<IpAddr>) -> Result<(), Refused> {
        let (Some(rate), Some(address)) = (self.rates.address, address) else { return Ok(()) };
        let account = self.lock().open.get(&(Limit::Address, network(address))).cloned();
        let wait = account.and_then(|account| account.lock().empty_for(Instant::now()));
        wait.map_or(Ok(()), |wait| Err(refused(Limit::Address, rate, wait)))
    }

    /// Who is at the other end: of the connection, or of the proxies in front.
    pub(crate) fn address(&self, peer: Option<&Peer>, headers: &HeaderMap) -> Option<IpAddr> {
        let peer = peer.map(|peer| peer.0);
        let Some(before) = self.rates.proxies.checked_sub(1) else { return peer };
        let said = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
        let said: Vec<&str> = said.flat_map(|value| value.split(',')).map(str::trim).collect();
        // Each proxy adds one at the end. What stands before those was written by whoever calls.
        let one = said.iter().rev().nth(before).and_then(|address| address.parse().ok());
        one.or(peer)
    }

    async fn spend(&self, owner: Owner, rate: Rate) -> Result<(), Refused> {
        let limit = owner.0;
        let account = self.account(owner);
        let lent = account.lock().spend_lent(Instant::now());
        let spent = match lent {
            Some(spent) => spent,
            None => self.ask(&account, rate).await,
        };
        spent.map_err(|wait| refused(limit, rate, wait))
    }

    async fn ask(&self, account: &Account, rate: Rate) -> Result<(), Duration> {
        let Some(shared) = &self.shared else { return account.lock().spend_own(rate) };
        let _asking = account.asking.lock().await;
        // Somebody may have asked in the meantime.
        if let Some(spent) = account.lock().spend_lent(Instant::now()) {
            return spent;
        }
        let lent =
            if shared.is_there() { shared.spend(&account.name, rate, rate.batch()).await } else { None };
        let mut state = account.lock();
        match lent {
            Some(Lent::Calls(calls)) => {
                state.lent = calls.saturating_sub(1);
                Ok(())
            }
            Some(Lent::Nothing(wait)) => {
                state.empty_until = Some(Instant::now() + wait);
                Err(wait)
            }
            None => state.spend_own(rate),
        }
    }

    fn account(&self, owner: Owner) -> Arc<Account> {
        let now = Instant::now();
        let mut accounts = self.lock();
        if let Some(account) = accounts.open.get(&owner) {
            return account.clone();
        }
        if accounts.open.len() >= ACCOUNTS_MAX && now.saturating_duration_since(accounts.swept) >= SWEEP_EVERY
        {
            accounts.swept = now;
            accounts.open.retain(|_, account| now.saturating_duration_since(account.lock().used) < IDLE);
        }
        let owner = if accounts.open.len() < ACCOUNTS_MAX { owner } else { (owner.0, "*".to_owned()) };
        accounts.open.entry(owner).or_insert_with_key(|owner| Arc::new(Account::new(owner, now))).clone()
    }

    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    fn new((limit, owner): &Owner, now: Instant) -> Self {
        let state = State { used: now, lent: 0, empty_until: None, own: Budget::full(now) };
        let name = format!("{}:{owner}", limit.name());
        Self { name, state: Mutex::new(state), asking: tokio::sync::Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Spends what is at hand. Nothing is said where somebody must be asked.
    fn spend_lent(&mut self, now: Instant) -> Option<Result<(), Duration>> {
        self.used = now;
        if let Some(wait) = self.empty_for(now) {
            return Some(Err(wait));
        }
        self.lent = self.lent.checked_sub(1)?;
        Some(Ok(()))
    }

    fn spend_own(&mut self, rate: Rate) -> Result<(), Duration> {
        let now = Instant::now();
        let spent = self.own.spend(rate, now);
        self.empty_until = spent.err().map(|wait| now + wait);
        spent
    }

    fn empty_for(&self, now: Instant) -> Option<Duration> {
        let wait = self.empty_until?.saturating_duration_since(now);
        (!wait.is_zero()).then_some(wait)
    }
}

fn refused(limit: Limit, rate: Rate, wait: Duration) -> Refused {
    LIMITED.add(1, [limit.name()]);
    // A whole millisecond, so that whoever waits as long as it is told is not told so again.
    Refused::RateLimited {
        limit: limit.name(),
        per_second: rate.per_second,
        wait: wait + Duration::from_millis(1),
    }
}

/// What counts as one address.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(address: Rate, proxies: usize) -> Ledger {
        Ledger::new(Rates { address: Some(address), proxies, ..Rates::default() }).unwrap()
    }

    #[tokio::test]
    async fn each_address_has_a_budget_and_a_network_of_ipv6_has_one() {
        let ledger = ledger(Rate { per_second: 1, burst: 2 }, 0);
        for (address, passes) in [
            ("192.0.2.1", true),
            ("192.0.2.1", true),
            ("192.0.2.1", false),
            ("::ffff:192.0.2.1", false),
            ("192.0.2.2", true),
            ("2001:db8::1", true),
            ("2001:db8::ffff:2", true),
            ("2001:db8::3", false),
            ("2001:db8:0:1::3", true),
        ] {
            let address = Some(address.parse().unwrap());
            assert_eq!(ledger.knocked(address).await.is_ok(), passes, "{address:?}");
            // Whoever was refused is not looked at for a while; nobody else is touched by it.
            assert_eq!(ledger.admit(address).is_ok(), passes, "{address:?}");
        }
    }

    #[test]
    fn only_own_proxies_are_believed() {
        let address = |proxies: usize, said: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in said {
                headers.append(FORWARDED_FOR, value.parse().unwrap());
            }
            let peer = Peer("10.0.0.1".parse().unwrap());
            let found = ledger(Rate { per_second: 1, burst: 1 }, proxies).address(Some(&peer), &headers);
            found.unwrap().to_string()
        };
        assert_eq!(address(0, &["192.0.2.9"]), "10.0.0.1");
        assert_eq!(address(1, &["1.1.1.1, 192.0.2.9"]), "192.0.2.9");
        assert_eq!(address(2, &["1.1.1.1, 192.0.2.9", "10.0.0.7"]), "192.0.2.9");
        assert_eq!(address(1, &[]), "10.0.0.1");
        assert_eq!(address(1, &["nobody"]), "10.0.0.1");
    }

    #[tokio::test]
    async fn too_many_addresses_share_one_account() {
        let ledger = ledger(Rate { per_second: 1, burst: 1 }, 0);
        for number in 0..u32::try_from(ACCOUNTS_MAX).unwrap() + 50 {
            let address = IpAddr::V4(number.into());
            let _ = ledger.knocked(Some(address)).await;
        }
        assert_eq!(ledger.lock().open.len(), ACCOUNTS_MAX + 1);
        assert!(ledger.knocked(Some("203.0.113.1".parse().unwrap())).await.is_err());
    }
}
