//! Hostile input for whatever reads what others have written. A [`Target`] has a corpus, files below `corpus/NAME` that are kept:
//! each is read as it is, and then with pieces cut, repeated, moved and put in, by a seed. What a property refuses is made
//! as small as it gets and joins the corpus.
//!
//! Unless somebody says otherwise, a target reads the same few thousand inputs each time. `CAMBRIC_FUZZ_SECONDS` has it go on for so
//! long, with a new seed, which is printed; with the same `CAMBRIC_FUZZ_SEED` come the same inputs.

mod corpus_files;
mod edit;
mod watchdog;

use std::{
    env,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use proptest::test_runner::{
    Config, RngAlgorithm, TestCaseError, TestCaseResult, TestError, TestRng, TestRunner,
};

pub use crate::edit::Form;
use crate::{corpus_files::keep, edit::Corpus, watchdog::Watchdog};

/// How long one input may be read. Honest ones take less than a millisecond; machines that run tests are busy.
const LONGEST: Duration = Duration::from_secs(10);
/// How many inputs a target reads unless it is told for how long.
const INPUTS: u32 = 4096;
/// When it stops anyway, on a slow machine.
const ENOUGH: Duration = Duration::from_secs(15);
/// How many inputs come of one seed.
const ROUND: u32 = 64;

/// Something that reads input from outside.
#[derive(Debug)]
pub struct Target {
    name: &'static str,
    form: Form,
    directory: PathBuf,
}

impl Target {
    /// The target whose corpus is in `corpus/NAME` of this crate.
    pub fn new(name: &'static str, form: Form) -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        Self { name, form, directory }
    }

    /// Gives every input of the corpus, and what becomes of them, to a property, which says with a sentence what is wrong.
    ///
    /// # Panics
    /// If the property says so or panics, or takes too long: with the seed and the file that the input is kept in.
    pub fn holds(&self, property: impl Fn(&[u8]) -> Result<(), String>) {
        let name = self.name;
        let kept = corpus_files::read_all(&self.directory);
        let watchdog = Watchdog::start(name, self.directory.clone(), LONGEST);
        for (file, input) in &kept {
            if let Err(wrong) = watchdog.watch(input, || property(input)) {
                panic!("{name}: {}: {wrong}", file.display());
            }
        }
        let told = Told::read();
        let corpus = Corpus::new(self.form, kept.into_iter().map(|(_, input)| input).collect());
        let (begun, mut inputs) = (Instant::now(), 0);
        println!("{name}: CAMBRIC_FUZZ_SEED={} has the same inputs read", told.seed);
        for round in 0.. {
            let enough = match told.time {
                Some(time) => begun.elapsed() >= time,
                None => inputs >= INPUTS || begun.elapsed() >= ENOUGH,
            };
            if enough {
                break;
            }
            let test = |edits: Vec<edit::Edit>| -> TestCaseResult {
                let input = corpus.input(&edits);
                watchdog.watch(&input, || property(&input)).map_err(TestCaseError::fail)
            };
            let config = Config { cases: ROUND, failure_persistence: None, ..Config::default() };
            match TestRunner::new_with_rng(config, told.random(round)).run(&corpus.strategy(), test) {
                Ok(()) => inputs += ROUND,
                Err(TestError::Fail(reason, edits)) => {
                    let input = corpus.input(&edits);
                    let file = keep(&self.directory, "found", &input);
                    panic!(
                        "{name}: {reason}\nCAMBRIC_FUZZ_SEED={} round {round}, {} bytes, kept as {file}: {:?}",
                        told.seed,
                        input.len(),
                        String::from_utf8_lossy(&input)
                    );
                }
                Err(TestError::Abort(reason)) => panic!("{name}: {reason}"),
            }
        }
        println!("{name}: {inputs} inputs in {} ms", begun.elapsed().as_millis());
    }
}

/// What the environment says.
struct Told {
    seed: u64,
    time: Option<Duration>,
}

impl Told {
    fn read() -> Self {
        let number = |name: &str| {
            let text = env::var(name).ok()?;
            Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
        };
        let time = number("CAMBRIC_FUZZ_SECONDS").map(Duration::from_secs);
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
        let seed = number("CAMBRIC_FUZZ_SEED").unwrap_or_else(|| if time.is_some() { clock() } else { 0 });
        Self { seed, time }
    }

    /// The random numbers of a round.
    fn random(&self, round: u64) -> TestRng {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&round.to_le_bytes());
        TestRng::from_seed(RngAlgorithm::ChaCha, &seed)
    }
}

/// Whether words that go to people are one sentence: one line that says something, without control characters.
///
/// # Errors
/// What they are instead.
pub fn one_sentence(words: &str) -> Result<(), String> {
    if words.trim().is_empty() {
        return Err("the error says nothing".to_owned());
    }
    match words.chars().find(|sign| sign.is_control() || matches!(sign, '\u{2028}' | '\u{2029}')) {
        Some(sign) => Err(format!("the error has {sign:?} in it: {words:?}")),
        None if words.len() > 8192 => Err(format!("the error is {} bytes long", words.len())),
        None => Ok(()),
    }
}

/// Whether two things are the same.
///
/// # Errors
/// What they are.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, left: &T, right: &T) -> Result<(), String> {
    if left == right { Ok(()) } else { Err(format!("{what}: {left:?} is not {right:?}")) }
}
