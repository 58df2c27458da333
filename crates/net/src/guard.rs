//! Which addresses may be dialled.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

/// Why an address is refused unless it is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressClass {
    Loopback,
    LinkLocal,
    /// Where a cloud hands out its machines' credentials.
    Metadata,
    Unspecified,
    Multicast,
    Broadcast,
}

impl AddressClass {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Metadata => "cloud metadata",
            Self::Unspecified => "unspecified",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
        }
    }
}

impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Refuses loopback, link-local, metadata, unspecified, multicast and broadcast addresses, in every IPv6 form that
/// carries an IPv4 address too, except those listed. Private ranges are allowed: that is where targets live.
/// Cheap to clone. Two guards with one list share connections, others never do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AddressGuard {
    allow: Arc<[IpNet]>,
}

impl AddressGuard {
    /// `allow` lists the exceptions. An IPv4 network also lets through the IPv6 forms of its addresses.
    pub fn new(allow: impl IntoIterator<Item = IpNet>) -> Self {
        let mut allow: Vec<_> = allow.into_iter().map(|net| net.trunc()).collect();
        allow.sort_unstable();
        allow.dedup();
        Self { allow: allow.into() }
    }

    /// The exceptions, sorted.
    pub fn allowed(&self) -> &[IpNet] {
        &self.allow
    }

    /// The class that an address is refused for.
    pub fn check(&self, address: IpAddr) -> Result<(), AddressClass> {
        let plain = embedded_v4(address).map_or(address, IpAddr::V4);
        // Only the plain address is looked up for an IPv4 form, or `::/0` would let v4-mapped loopback through
        // although no IPv4 network is listed.
        if self.allow.iter().any(|net| net.contains(&plain)) {
            return Ok(());
        }
        class_of(plain).map_or(Ok(()), Err)
    }
}

impl Default for AddressGuard {
    fn default() -> Self {
        Self::new([])
    }
}

fn class_of(address: IpAddr) -> Option<AddressClass> {
    match address {
        IpAddr::V4(v4) => class_of_v4(v4),
        IpAddr::V6(v6) => class_of_v6(v6),
    }
}

fn class_of_v4(address: Ipv4Addr) -> Option<AddressClass> {
    // AWS, Azure, GCP, OpenStack; ECS tasks; Alibaba; Oracle.
    const METADATA: [[u8; 4]; 4] = [[169, 254, 169, 254], [169, 254, 170, 2], [100, 100, 100, 200], [192, 0, 0, 192]];
    let octets = address.octets();
    if METADATA.contains(&octets) {
        Some(AddressClass::Metadata)
    } else if address.is_loopback() {
        Some(AddressClass::Loopback)
    } else if octets[0] == 0 {
        Some(AddressClass::Unspecified)
    } else if address.is_link_local() {
        Some(AddressClass::LinkLocal)
    } else if address.is_multicast() {
        Some(AddressClass::Multicast)
    } else if address.is_broadcast() {
        Some(AddressClass::Broadcast)
    } else {
        None
    }
}

fn class_of_v6(address: Ipv6Addr) -> Option<AddressClass> {
    // AWS; Scaleway and others use the same prefix with other ends, so all of fd00:ec2::/32 is refused.
    let segments = address.segments();
    if segments[0] == 0xfd00 && segments[1] == 0x0ec2 {
        Some(AddressClass::Metadata)
    } else if address.is_loopback() {
        Some(AddressClass::Loopback)
    } else if address.is_unspecified() {
        Some(AddressClass::Unspecified)
    } else if segments[0] & 0xffc0 == 0xfe80 {
        Some(AddressClass::LinkLocal)
    } else if address.is_multicast() {
        Some(AddressClass::Multicast)
    } else {
        None
    }
}

/// The IPv4 address that an IPv6 address stands for: v4-mapped (RFC 4291 2.5.5.2), v4-compatible (2.5.5.1), v4-translated
/// (RFC 2765), NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056), Teredo (RFC 4380).
fn embedded_v4(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let s = v6.segments();
    let join = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match s {
        // `::` and `::1` are IPv6's own unspecified and loopback addresses.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        // RFC 8215's local prefix is cut as the operator likes; /96 is what implementations default to.
        | [0x64, 0xff9b, 1, _, _, _, high, low]
        | [0x2002, high, low, ..] => join(high, low),
        [0x2001, 0, _, _, _, _, high, low] => join(!high, !low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guard: &AddressGuard, address: &str) -> Result<(), AddressClass> {
        guard.check(address.parse().expect("an address"))
    }

    #[test]
    fn what_is_special_is_refused_in_every_form() {
        let guard = AddressGuard::default();
        for (address, class) in [
            ("127.0.0.1", AddressClass::Loopback),
            ("127.255.0.9", AddressClass::Loopback),
            ("::1", AddressClass::Loopback),
            ("::ffff:127.0.0.1", AddressClass::Loopback),
            ("::127.0.0.1", AddressClass::Loopback),
            ("::ffff:0:127.0.0.1", AddressClass::Loopback),
            ("64:ff9b::127.0.0.1", AddressClass::Loopback),
            ("64:ff9b:1::127.0.0.1", AddressClass::Loopback),
            ("2002:7f00:1::", AddressClass::Loopback),
            ("2002:7f00:1::5", AddressClass::Loopback),
            ("2001:0:1:2:3:4:80ff:fffe", AddressClass::Loopback),
            ("169.254.1.1", AddressClass::LinkLocal),
            ("::ffff:169.254.1.1", AddressClass::LinkLocal),
            ("fe80::1", AddressClass::LinkLocal),
            ("febf::1", AddressClass::LinkLocal),
            ("169.254.169.254", AddressClass::Metadata),
            ("169.254.170.2", AddressClass::Metadata),
            ("::ffff:169.254.169.254", AddressClass::Metadata),
            ("64:ff9b::a9fe:a9fe", AddressClass::Metadata),
            ("2002:a9fe:a9fe::1", AddressClass::Metadata),
            ("fd00:ec2::254", AddressClass::Metadata),
            ("100.100.100.200", AddressClass::Metadata),
            ("0.0.0.0", AddressClass::Unspecified),
            ("0.1.2.3", AddressClass::Unspecified),
            ("::", AddressClass::Unspecified),
            ("::ffff:0.0.0.0", AddressClass::Unspecified),
            ("224.0.0.1", AddressClass::Multicast),
            ("239.1.1.1", AddressClass::Multicast),
            ("ff02::1", AddressClass::Multicast),
            ("255.255.255.255", AddressClass::Broadcast),
            ("::ffff:255.255.255.255", AddressClass::Broadcast),
        ] {
            assert_eq!(check(&guard, address), Err(class), "{address}");
        }
    }

    #[test]
    fn private_and_public_addresses_are_allowed() {
        let guard = AddressGuard::default();
        for address in
            ["10.0.0.1", "172.16.3.4", "192.168.1.1", "8.8.8.8", "fd12::1", "2606:4700::1111", "::ffff:10.0.0.1"]
        {
            assert_eq!(check(&guard, address), Ok(()), "{address}");
        }
    }

    #[test]
    fn an_exception_covers_its_own_network_only() {
        let guard = AddressGuard::new(["127.0.0.0/30".parse().expect("a network")]);
        assert_eq!(check(&guard, "127.0.0.1"), Ok(()));
        assert_eq!(check(&guard, "::ffff:127.0.0.1"), Ok(()));
        assert_eq!(check(&guard, "127.0.0.4"), Err(AddressClass::Loopback));
        assert_eq!(check(&guard, "::1"), Err(AddressClass::Loopback));
        let six = AddressGuard::new(["::/0".parse().expect("a network")]);
        assert_eq!(check(&six, "::1"), Ok(()));
        assert_eq!(check(&six, "::ffff:127.0.0.1"), Err(AddressClass::Loopback));
    }

    #[test]
    fn guards_with_one_list_are_equal() {
        let nets =
            |texts: &[&str]| AddressGuard::new(texts.iter().map(|text| text.parse::<IpNet>().expect("a network")));
        assert_eq!(nets(&["127.0.0.1/8", "::1/128"]), nets(&["::1/128", "127.0.0.0/8", "127.0.0.0/8"]));
        assert_ne!(nets(&["127.0.0.1/8"]), nets(&[]));
    }
}
