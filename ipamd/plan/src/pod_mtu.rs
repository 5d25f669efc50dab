//! The MTU of containers.

use ipamd_model::endpoint::FALLBACK_MTU;

/// IPv6 needs no less.
const LEAST_MTU: u32 = 1280;

/// The MTU that containers get, and what is wrong with it, a sentence: `configured` if it is set, else the smallest of what
/// the uplinks and the overlay take. Each is `None` if there is none.
pub fn pod_mtu(configured: Option<u32>, uplinks: Option<u32>, overlay: Option<u32>) -> (u32, Option<String>) {
    let way_out = overlay.into_iter().chain(uplinks).min().map(|mtu| mtu.clamp(LEAST_MTU, u16::MAX.into()));
    let problem = configured.zip(way_out).filter(|(mtu, takes)| mtu > takes).map(|(mtu, takes)| {
        format!("mtu = {mtu} is larger than the {takes} bytes that the way out takes: large packets are cut or refused")
    });
    (configured.or(way_out).unwrap_or(FALLBACK_MTU), problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_way_out_decides_unless_the_configuration_does() {
        let mtu = |configured, uplinks, overlay| pod_mtu(configured, uplinks, overlay).0;
        assert_eq!(mtu(None, None, None), FALLBACK_MTU);
        assert_eq!(mtu(None, Some(9000), None), 9000);
        assert_eq!(mtu(None, Some(1500), Some(1450)), 1450);
        assert_eq!(mtu(None, Some(1400), Some(1450)), 1400);
        assert_eq!(mtu(Some(1300), Some(1500), Some(1450)), 1300);
        assert_eq!((mtu(None, Some(576), None), mtu(None, Some(65_536), None)), (1280, 65_535));
    }

    #[test]
    fn a_configured_mtu_that_the_way_out_does_not_take_is_a_problem() {
        let problem = |configured, uplinks, overlay| pod_mtu(Some(configured), uplinks, overlay).1;
        assert_eq!(problem(1500, None, None), None);
        assert_eq!(problem(1450, Some(1500), Some(1450)), None);
        let told = problem(1500, Some(1500), Some(1450)).unwrap();
        assert!(told.starts_with("mtu = 1500 is larger than the 1450 bytes"), "{told}");
    }
}
