//! Consistent hashing: all nodes with the same backends send the same client to the same backend, and the loss of a
//! backend moves little more than its own clients.
//!
//! Small sets use rendezvous hashing: each client has a score with each backend, and the highest wins. The loss of a
//! backend moves only its own clients, and nothing is stored. Its cost grows with the set, so a large set has a table,
//! filled as in Eisenbud and others, "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section
//! 3.4.

use bpf::layout::SCORED_MOST;

use super::tables::Backend;

/// Places of a table: a prime, and so many that of the largest sets the loss of one moves 1 % more than its share.
pub const PLACES: u16 = 65_521;

/// Whether so many backends are chosen from by a table.
pub fn by_table(backends: usize) -> bool {
    backends > SCORED_MOST as usize
}

/// What the programs mix a client with for a backend's score.
pub fn seed(backend: &Backend) -> u32 {
    hashes(backend).0
}

/// Which backend, as an index, each place of the table has. Empty without backends. Depends on the backends' addresses
/// and ports alone, not on their order.
pub fn table(backends: &[Backend]) -> Vec<u16> {
    const FREE: u16 = u16::MAX;
    if backends.is_empty() {
        return Vec::new();
    }
    let places = u32::from(PLACES);
    // Each backend walks the table in an order of its own, and takes the next free place in turn.
    let mut order: Vec<_> = (0..u16::try_from(backends.len()).unwrap_or(FREE)).collect();
    order.sort_unstable_by_key(|at| backends[usize::from(*at)]);
    let mut walks: Vec<_> = order
        .into_iter()
        .map(|at| {
            let (offset, skip) = hashes(&backends[usize::from(at)]);
            (at, offset % places, skip % (places - 1) + 1)
        })
        .collect();
    let mut table = vec![FREE; usize::from(PLACES)];
    let mut left = table.len();
    loop {
        for (at, next, skip) in &mut walks {
            // The size is prime, so the walk meets every place.
            while table[*next as usize] != FREE {
                *next = (*next + *skip) % places;
            }
            table[*next as usize] = *at;
            left -= 1;
            if left == 0 {
                return table;
            }
        }
    }
}

/// Two hashes of a backend, the same on every node and in every version: FNV-1a with a finish.
fn hashes(backend: &Backend) -> (u32, u32) {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    match backend.address {
        std::net::IpAddr::V4(address) => address.octets().into_iter().for_each(&mut add),
        std::net::IpAddr::V6(address) => address.octets().into_iter().for_each(&mut add),
    }
    backend.port.to_be_bytes().into_iter().for_each(&mut add);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^= hash >> 33;
    #[allow(clippy::cast_possible_truncation, reason = "the halves of a hash")]
    let halves = (hash as u32, (hash >> 32) as u32);
    halves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(count: u16) -> Vec<Backend> {
        let backend = |at: u16| {
            let [high, low] = at.to_be_bytes();
            Backend { address: [10, 88, high, low].into(), port: 8080 }
        };
        (1..=count).map(backend).collect()
    }

    /// As `stir` in the programs.
    fn stir(bits: u32) -> u32 {
        let bits = (bits ^ (bits >> 16)).wrapping_mul(0x7feb_352d);
        let bits = (bits ^ (bits >> 15)).wrapping_mul(0x846c_a68b);
        bits ^ (bits >> 16)
    }

    /// As the programs choose by score.
    fn by_score(backends: &[Backend], client: u32) -> Backend {
        *backends.iter().max_by_key(|it| stir(client ^ seed(it))).unwrap()
    }

    #[test]
    fn scores_share_clients_evenly_and_move_only_those_of_the_lost() {
        let all = backends(10);
        let clients: Vec<u32> = (0..100_000).map(stir).collect();
        let chosen: Vec<_> = clients.iter().map(|client| by_score(&all, *client)).collect();
        for backend in &all {
            let share = chosen.iter().filter(|it| *it == backend).count();
            assert!((9_700..=10_300).contains(&share), "{backend:?}: {share}");
            let left: Vec<_> = all.iter().copied().filter(|it| it != backend).collect();
            for (client, was) in clients.iter().zip(&chosen).filter(|(_, was)| *was != backend) {
                assert_eq!(by_score(&left, *client), *was);
            }
        }
    }

    /// The second choice, which a client has in every other turn of its affinity.
    fn second_by_score(backends: &[Backend], client: u32) -> Backend {
        let mut scored: Vec<_> = backends.iter().map(|it| (stir(client ^ seed(it)), *it)).collect();
        scored.sort_unstable();
        scored[scored.len() - 2].1
    }

    #[test]
    fn second_choices_are_others_shared_as_evenly_and_move_as_little() {
        let all = backends(10);
        let clients: Vec<u32> = (0..100_000).map(stir).collect();
        let second: Vec<_> = clients.iter().map(|client| second_by_score(&all, *client)).collect();
        for (client, second) in clients.iter().zip(&second) {
            assert_ne!(by_score(&all, *client), *second);
        }
        for lost in &all {
            let share = second.iter().filter(|it| *it == lost).count();
            assert!((9_700..=10_300).contains(&share), "{lost:?}: {share}");
            let left: Vec<_> = all.iter().copied().filter(|it| it != lost).collect();
            for (client, was) in clients.iter().zip(&second) {
                // Only who had the lost one as either choice has another now.
                if by_score(&all, *client) != *lost && was != lost {
                    assert_eq!(second_by_score(&left, *client), *was);
                }
            }
        }
    }

    #[test]
    fn tables_share_clients_evenly_and_move_little_more_than_those_of_the_lost() {
        for count in [129, 200, 400] {
            let all = backends(count);
            let full = table(&all);
            let mut shares = vec![0_u32; all.len()];
            for at in &full {
                shares[usize::from(*at)] += 1;
            }
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{count}");
            for lost in [0, all.len() / 2] {
                let mut left = all.clone();
                left.remove(lost);
                let after = table(&left);
                let pairs = full.iter().zip(&after);
                let moved =
                    pairs.filter(|(was, is)| all[usize::from(**was)] != left[usize::from(**is)]).count();
                let most = usize::from(PLACES) / all.len() + usize::from(PLACES) / 100;
                assert!(moved <= most, "{count} without {lost}: {moved} of at most {most}");
            }
        }
    }

    #[test]
    fn the_order_of_the_backends_does_not_matter() {
        let forth = backends(130);
        let mut back = forth.clone();
        back.reverse();
        let names =
            |list: &[Backend]| table(list).into_iter().map(|at| list[usize::from(at)]).collect::<Vec<_>>();
        assert_eq!(names(&forth), names(&back));
        assert!(table(&[]).is_empty() && by_table(129) && !by_table(128));
    }
}
