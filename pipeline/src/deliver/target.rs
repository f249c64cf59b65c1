//! Which addresses a destination may reach. A webhook that was meant for a service outside must not be turned against
//! this network (cloud metadata, internal APIs) by a name that resolves inwards: private targets need to be allowed.
//! The addresses that were checked are the ones connected to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Not reachable from the public internet, or not a single host: loopback, RFC 1918, RFC 6598, link-local, unique local,
/// unspecified, multicast, broadcast.
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let shared = u32::from(ip) & 0xffc0_0000 == u32::from(Ipv4Addr::new(100, 64, 0, 0));
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.octets()[0] == 0
                || ip.is_broadcast()
                || shared
        }
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.is_unique_local() || ip.is_unicast_link_local()
        }
    }
}

/// Resolves names and leaves out private addresses.
#[derive(Debug)]
pub(super) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            // The system's resolver blocks; the client's time-out must be able to pass it.
            let found = tokio::task::spawn_blocking(move || public_addresses(&host)).await??;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn public_addresses(host: &str) -> std::io::Result<Vec<SocketAddr>> {
    let all: Vec<_> = (host, 0).to_socket_addrs()?.collect();
    let public: Vec<_> = all.iter().copied().filter(|address| !is_private(address.ip())).collect();
    if public.is_empty() && !all.is_empty() {
        let reason = format!("{host} has only private addresses, which this destination may not reach");
        return Err(std::io::Error::other(reason));
    }
    Ok(public)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn private_addresses_are_known() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in ["1.1.1.1", "100.63.0.1", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn names_that_lead_inwards_are_refused() {
        assert!(public_addresses("localhost").unwrap_err().to_string().contains("private"));
        assert_eq!(public_addresses("1.1.1.1").unwrap().len(), 1);
    }
}
