//! The addresses of this machine.
//!
//! Owns: the system's calls for it, which are unsafe. Never: decides which of them is used.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where others may find a listener of this process at `port`: the addresses of all interfaces, that of the machine itself last.
pub fn own_addresses(port: u16) -> Vec<SocketAddr> {
    let mut all = system::addresses();
    all.retain(|ip| !ip.is_loopback() && !link_local(*ip));
    all.sort_by_key(IpAddr::is_ipv6);
    all.push(Ipv4Addr::LOCALHOST.into());
    all.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
}

/// The address to listen at for connections from anywhere. (In unit tests: from this machine.)
pub fn everywhere() -> IpAddr {
    if cfg!(test) { Ipv4Addr::LOCALHOST.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// Addresses that mean something only together with an interface.
fn link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(unix)]
mod system {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::ptr;

    pub fn addresses() -> Vec<IpAddr> {
        let mut first = ptr::null_mut();
        // SAFETY: the call writes the head of a list that it allocates.
        if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
            return Vec::new();
        }
        let mut found = Vec::new();
        let mut next = first;
        // SAFETY: the list is as the system made it, ends with a null pointer, and is freed only below.
        while let Some(entry) = unsafe { next.as_ref() } {
            // SAFETY: an address, where there is one, is as long as its family says.
            found.extend(unsafe { address(entry.ifa_addr) });
            next = entry.ifa_next;
        }
        // SAFETY: the list came from getifaddrs and is not used afterwards.
        unsafe { libc::freeifaddrs(first) };
        found
    }

    /// # Safety
    /// `address` is null or points at an address that is as long as its family says.
    unsafe fn address(address: *const libc::sockaddr) -> Option<IpAddr> {
        // SAFETY: as above; unaligned reads ask nothing of the address's alignment.
        unsafe {
            if address.is_null() {
                return None;
            }
            match i32::from((*address).sa_family) {
                libc::AF_INET => {
                    let ip = address.cast::<libc::sockaddr_in>().read_unaligned();
                    Some(Ipv4Addr::from(u32::from_be(ip.sin_addr.s_addr)).into())
                }
                libc::AF_INET6 => {
                    let ip = address.cast::<libc::sockaddr_in6>().read_unaligned();
                    Some(Ipv6Addr::from(ip.sin6_addr.s6_addr).into())
                }
                _ => None,
            }
        }
    }
}

#[cfg(not(unix))]
mod system {
    pub fn addresses() -> Vec<std::net::IpAddr> {
        Vec::new()
    }
}
