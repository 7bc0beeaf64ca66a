//! The settings that bound what callers may ask for.

use std::fmt::Write as _;

use clap::Args;
use phasegate_bus::Settings as Redis;
use phasegate_gateway::{Limits as GatewayLimits, Rate, Rates};
use phasegate_serve::Limits;

/// What bounds callers.
#[derive(Debug, Clone, Args)]
pub struct LimitOptions {
    /// Calls that a tenant may make a second, over all gateways, and twice as many at once; 0: as many as it likes
    #[arg(long, env = "PHASEGATE_RATE_LIMIT_TENANT", value_name = "NUMBER", default_value_t = 2_000)]
    pub rate_limit_tenant: u32,
    /// The same for one key or one operator
    #[arg(long, env = "PHASEGATE_RATE_LIMIT_CALLER", value_name = "NUMBER", default_value_t = 1_000)]
    pub rate_limit_caller: u32,
    /// The same for one address: pages of the portal, and calls without a good key
    #[arg(long, env = "PHASEGATE_RATE_LIMIT_ADDRESS", value_name = "NUMBER", default_value_t = 50)]
    pub rate_limit_address: u32,
    /// Proxies in front of the gateway that add whoever calls to `X-Forwarded-For`; with 0, that header is not believed
    #[arg(long, env = "PHASEGATE_TRUSTED_PROXIES", value_name = "NUMBER", default_value_t = 0)]
    pub trusted_proxies: usize,
    /// Calls that each service works on at a time, and the gateway twice as many; what is more is refused at once
    #[arg(
        long,
        env = "PHASEGATE_CALLS_MAX",
        value_name = "NUMBER",
        default_value_t = 512,
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    pub calls_max: u32,
}

impl LimitOptions {
    /// How often somebody may call.
    pub fn rates(&self, redis: &Redis) -> Rates {
        Rates {
            tenant: Rate::per_second(self.rate_limit_tenant),
            caller: Rate::per_second(self.rate_limit_caller),
            address: Rate::per_second(self.rate_limit_address),
            proxies: self.trusted_proxies,
            redis: Some(redis.clone()),
            ..Rates::default()
        }
    }

    /// What each service takes on.
    pub fn service(&self) -> Limits {
        Limits { calls_max: self.calls(), ..Limits::default() }
    }

    /// What the gateway takes on: more than a service, because it waits for several.
    pub fn gateway(&self) -> GatewayLimits {
        GatewayLimits { calls_max: self.calls().saturating_mul(2), ..GatewayLimits::default() }
    }

    /// All of them in TOML.
    pub(super) fn effective(&self) -> String {
        let mut text = String::new();
        for (name, value) in [
            ("rate-limit-tenant", u64::from(self.rate_limit_tenant)),
            ("rate-limit-caller", u64::from(self.rate_limit_caller)),
            ("rate-limit-address", u64::from(self.rate_limit_address)),
            ("trusted-proxies", u64::try_from(self.trusted_proxies).unwrap_or(u64::MAX)),
            ("calls-max", u64::from(self.calls_max)),
        ] {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name} = \"{value}\"");
        }
        text
    }

    fn calls(&self) -> usize {
        usize::try_from(self.calls_max).unwrap_or(usize::MAX)
    }
}
