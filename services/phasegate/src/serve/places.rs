//! Where services listen, and where others are: read from texts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, ensure};
use clap::ValueEnum as _;
use phasegate_serve::{Address, Service};

use super::Name;

fn name(text: &str) -> anyhow::Result<Name> {
    Name::from_str(text, false).map_err(|_| {
        let known = Name::ALL.map(Name::text).join(", ");
        anyhow::anyhow!("there is no service {text:?}; there are {known}")
    })
}

/// The address of each of these services.
pub(super) fn listen(given: &[String], services: &[Name]) -> anyhow::Result<BTreeMap<Name, SocketAddr>> {
    let mut listen: BTreeMap<Name, SocketAddr> = services
        .iter()
        .map(|name| (*name, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), name.port())))
        .collect();
    for text in given.iter().map(|text| text.trim()) {
        match text.split_once('=') {
            None => {
                let host: IpAddr = text
                    .parse()
                    .with_context(|| format!("--listen {text}: an address for all services has no port"))?;
                for address in listen.values_mut() {
                    address.set_ip(host);
                }
            }
            Some((service, address)) => {
                let service = name(service).with_context(|| format!("--listen {text}"))?;
                let address = match address.parse::<SocketAddr>() {
                    Ok(address) => address,
                    Err(_) => SocketAddr::new(
                        address.parse().with_context(|| format!("--listen {text}: not an address"))?,
                        service.port(),
                    ),
                };
                if let Some(known) = listen.get_mut(&service) {
                    *known = address;
                }
            }
        }
    }
    Ok(listen)
}

/// The addresses of the copies of every service.
pub(super) fn peers(given: &[String]) -> anyhow::Result<BTreeMap<Service, Vec<Address>>> {
    let mut peers: BTreeMap<Service, Vec<Address>> = BTreeMap::new();
    for text in given.iter().map(|text| text.trim()) {
        let (service, address) =
            text.split_once('=').with_context(|| format!("--peers {text}: not SERVICE=URL"))?;
        let service = name(service).with_context(|| format!("--peers {text}"))?;
        let service =
            service.service().with_context(|| format!("--peers {text}: nobody calls the gateway"))?;
        let address = address.parse().with_context(|| format!("--peers {text}"))?;
        peers.entry(service).or_default().push(address);
    }
    for service in Service::ALL {
        ensure!(peers.contains_key(&service), "--peers says not where {} is", service.name());
    }
    Ok(peers)
}
