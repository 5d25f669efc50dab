//! Networks.

use std::net::IpAddr;

/// The addresses of a family whose upper bits are these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    address: IpAddr,
    bits: u8,
}

impl Net {
    /// The network of one address.
    pub fn of(address: IpAddr) -> Self {
        Self { address, bits: width(address) }
    }

    /// Reads a CIDR, or an address alone.
    pub fn read(text: &str) -> Option<Self> {
        let Some((address, bits)) = text.split_once('/') else {
            return text.parse().ok().map(Self::of);
        };
        let net = Self { address: address.parse().ok()?, bits: bits.parse().ok()? };
        (net.bits <= width(net.address)).then_some(net)
    }

    /// Whether an address lies in it.
    pub fn has(self, address: IpAddr) -> bool {
        if !self.is_of(address) {
            return false;
        }
        let low = u32::from(width(address) - self.bits);
        number(self.address).checked_shr(low) == number(address).checked_shr(low)
    }

    /// Whether an address is of its family.
    pub fn is_of(self, address: IpAddr) -> bool {
        width(self.address) == width(address)
    }

    /// The addresses at its ends and beside them, as far as there are any.
    pub fn borders(self) -> Vec<IpAddr> {
        let low = u32::from(width(self.address) - self.bits);
        let all = u128::MAX.checked_shr(128 - u32::from(width(self.address))).unwrap_or(0);
        let inner = 1_u128.checked_shl(low).map_or(u128::MAX, |size| size - 1) & all;
        let (first, last) = (number(self.address) & !inner, number(self.address) | inner);
        let mut borders = vec![first, last];
        borders.extend(first.checked_sub(1));
        borders.extend(last.checked_add(1).filter(|it| *it <= all));
        borders.into_iter().filter_map(|it| address(it, self.address)).collect()
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(it) => u128::from(it.to_bits()),
        IpAddr::V6(it) => it.to_bits(),
    }
}

fn address(number: u128, like: IpAddr) -> Option<IpAddr> {
    match like {
        IpAddr::V4(_) => u32::try_from(number).ok().map(|it| IpAddr::V4(it.into())),
        IpAddr::V6(_) => Some(IpAddr::V6(number.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Net {
        Net::read(text).expect(text)
    }

    #[test]
    fn a_network_has_the_addresses_that_share_its_bits() {
        for (text, address, expected) in [
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.4/30", "10.0.0.7", true),
            ("10.0.0.4/30", "10.0.0.8", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::", false),
            ("::/0", "ffff::", true),
            ("fd00::1", "fd00::1", true),
            ("fd00::1", "fd00::2", false),
        ] {
            assert_eq!(net(text).has(address.parse().expect(address)), expected, "{text} {address}");
        }
    }

    #[test]
    fn the_borders_of_a_network_are_two_inside_and_two_outside() {
        let borders = |text: &str| net(text).borders().iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(borders("10.0.0.4/30"), ["10.0.0.4", "10.0.0.7", "10.0.0.3", "10.0.0.8"]);
        assert_eq!(borders("0.0.0.0/0"), ["0.0.0.0", "255.255.255.255"]);
        assert_eq!(borders("fd00::1/128"), ["fd00::1", "fd00::1", "fd00::", "fd00::2"]);
    }
}
