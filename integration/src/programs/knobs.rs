//! How the programs are told to behave.

/// How the programs are told to behave.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// First port of masqueraded flows.
    pub first_port: u16,
    /// Number of such ports.
    pub ports: u16,
    /// Entries of flows that wait, of each family.
    pub waiting: u32,
    /// The tick at which the clock stands until `Bench::set_tick` moves it; `None`: the clock of the programs is the kernel's.
    pub tick: Option<u32>,
}

impl Default for Knobs {
    fn default() -> Self {
        Self { first_port: 10_000, ports: 20_000, waiting: 65_536, tick: None }
    }
}
