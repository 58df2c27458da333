//! Networks in CIDR notation.

use std::net::IpAddr;

/// Addresses with the same first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    /// `10.1.0.0/16`, `fd00::/8`; None when it is no network, or has bits set behind its prefix.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let network = Self { address: address.parse().ok()?, bits: bits.parse().ok()? };
        let (number, width) = number(network.address);
        (network.bits <= width && number & !mask(network.bits, width) == 0).then_some(network)
    }

    pub(crate) fn contains(self, address: IpAddr) -> bool {
        let ((own, width), (other, other_width)) = (number(self.address), number(address));
        width == other_width && own == other & mask(self.bits, width)
    }

    /// How many bits are fixed: of two networks, the one with more is the more precise.
    pub(crate) const fn bits(self) -> u32 {
        self.bits
    }
}

fn number(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

fn mask(bits: u32, width: u32) -> u128 {
    let all = u128::MAX >> (128 - width);
    all & !all.checked_shr(bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses() {
        let holds = |network: &str, address: &str| {
            Network::parse(network).expect("a network").contains(address.parse().expect("an address"))
        };
        assert!(holds("10.1.0.0/16", "10.1.255.3") && !holds("10.1.0.0/16", "10.2.0.1"));
        assert!(holds("0.0.0.0/0", "1.2.3.4") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("10.1.2.3/32", "10.1.2.3") && !holds("10.1.2.3/32", "10.1.2.2"));
        assert!(holds("fd00::/8", "fd12::1") && !holds("fd00::/8", "fe80::1"));
        for bad in ["10.0.0.0", "10.0.0.0/33", "10.0.0.1/8", "a/8", "::/129", "/8", ""] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }
}
