//! What becomes of an input: a list of edits, which proptest makes and, of one that fails, shortens.

use std::{collections::BTreeSet, fmt};

use proptest::prelude::*;

/// An input is not made longer than this.
const LONGEST: usize = 1 << 17;

/// Pieces that parsers of text trip over.
const HOSTILE_TEXT: &[&str] = &[
    "",
    "\0",
    "\n",
    "\r\n",
    "\t",
    "\u{1b}[31m",
    "\u{85}",
    "\u{2028}",
    "\u{202e}",
    "\u{feff}",
    "\u{17f}",
    "\u{212a}",
    "é",
    "\u{1f600}",
    "\\u0000",
    "\\ud800",
    "'",
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ":",
    ": ",
    ",",
    "- ",
    "---\n",
    "&a ",
    "*a",
    "!!str ",
    "|",
    "#",
    "%",
    "=",
    ";",
    "/",
    "..",
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "-0",
    "-1",
    "0",
    "1",
    "65535",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775808",
    "18446744073709551616",
    "1.5",
    "1e400",
    "0x10",
    "010",
    "0.0.0.0/0",
    "0.0.0.0",
    "255.255.255.255",
    "10.0.0.0/33",
    "010.0.0.1",
    "::/0",
    "::",
    "::ffff:1.2.3.4",
    "fe80::1%eth0",
    "fd00::/129",
];

/// The bytes of numbers that are the smallest or largest of their kind, or one off.
const HOSTILE_BYTES: &[&[u8]] = &[
    &[0],
    &[1],
    &[0x7f],
    &[0x80],
    &[0xff],
    &[0, 0],
    &[0xff, 0xff],
    &[0, 0x80],
    &[4, 0],
    &[3, 0],
    &[0, 0, 0, 0],
    &[0xff; 4],
    &[16, 0, 0, 0],
    &[17, 0, 0, 0],
    &[0, 0, 0, 0x80],
    &[0; 16],
    &[0xff; 16],
];

/// What an input is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// UTF-8, most of the time.
    Text,
    /// Fields of one, two, four and more bytes.
    Binary,
}

/// What is done to an input. Places are parts of a whole, in 1/65536.
#[derive(Clone)]
pub enum Edit {
    /// Another input of the corpus instead, if this comes first, else a part of it here.
    Take { which: u16, at: u16, from: u16 },
    /// So many pieces are cut.
    Cut { at: u16, pieces: usize },
    /// A piece of the corpus, or a hostile one, in the place of so many.
    Put { at: u16, pieces: usize, what: u16 },
    /// Pieces come again, so often.
    Repeat { at: u16, pieces: usize, times: usize },
    /// A byte is another.
    Byte { at: u16, value: u8 },
    /// The rest is missing.
    End { at: u16 },
}

impl fmt::Debug for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("edit")
    }
}

/// The inputs that are kept, and the pieces that they are made of.
pub struct Corpus {
    form: Form,
    inputs: Vec<Vec<u8>>,
    pieces: Vec<Vec<u8>>,
}

impl Corpus {
    pub fn new(form: Form, inputs: Vec<Vec<u8>>) -> Self {
        let mut pieces = BTreeSet::new();
        for input in &inputs {
            let mut at = 0;
            for end in cuts(form, input) {
                pieces.insert(input[at..end].to_vec());
                at = end;
            }
        }
        match form {
            Form::Text => pieces.extend(HOSTILE_TEXT.iter().map(|it| it.as_bytes().to_vec())),
            Form::Binary => pieces.extend(HOSTILE_BYTES.iter().map(|it| it.to_vec())),
        }
        Self { form, inputs, pieces: pieces.into_iter().collect() }
    }

    /// Lists of edits. The first says which input.
    pub fn strategy(&self) -> impl Strategy<Value = Vec<Edit>> + use<> {
        let byte = match self.form {
            Form::Text => 1,
            Form::Binary => 6,
        };
        let take = (any::<u16>(), any::<u16>(), any::<u16>()).prop_map(|(which, at, from)| Edit::Take {
            which,
            at,
            from,
        });
        let edit = prop_oneof![
            1 => take.clone(),
            4 => (any::<u16>(), 1..12_usize).prop_map(|(at, pieces)| Edit::Cut { at, pieces }),
            8 => (any::<u16>(), 0..3_usize, any::<u16>())
                .prop_map(|(at, pieces, what)| Edit::Put { at, pieces, what }),
            2 => (any::<u16>(), 1..8_usize, prop_oneof![6 => 1..4_usize, 1 => 1..2000_usize])
                .prop_map(|(at, pieces, times)| Edit::Repeat { at, pieces, times }),
            byte => (any::<u16>(), any::<u8>()).prop_map(|(at, value)| Edit::Byte { at, value }),
            1 => any::<u16>().prop_map(|at| Edit::End { at }),
        ];
        (take, prop::collection::vec(edit, 0..8)).prop_map(|(take, mut edits)| {
            edits.insert(0, take);
            edits
        })
    }

    /// The input that comes of these edits.
    pub fn input(&self, edits: &[Edit]) -> Vec<u8> {
        let mut input = Vec::new();
        for (number, edit) in edits.iter().enumerate() {
            let mut ends = vec![0];
            ends.extend(cuts(self.form, &input));
            let last = ends.len() - 1;
            let place = |at: u16| (usize::from(at) * (last + 1)) >> 16;
            let span = |at: u16, pieces: usize| {
                let from = place(at);
                ends[from]..ends[(from + pieces).min(last)]
            };
            match edit {
                Edit::Take { which, .. } if number == 0 => {
                    one_of(&self.inputs, *which).clone_into(&mut input);
                }
                Edit::Take { which, at, from } => {
                    let other = one_of(&self.inputs, *which);
                    let from = (usize::from(*from) * other.len()) >> 16;
                    let at = ends[place(*at)];
                    input.splice(at..at, other[from..].iter().copied());
                }
                Edit::Cut { at, pieces } => drop(input.drain(span(*at, *pieces))),
                Edit::Put { at, pieces, what } => {
                    drop(input.splice(span(*at, *pieces), one_of(&self.pieces, *what).iter().copied()));
                }
                Edit::Repeat { at, pieces, times } => {
                    let span = span(*at, *pieces);
                    let most = LONGEST.saturating_sub(input.len()) / span.len().max(1);
                    let again = input[span.clone()].repeat((*times).min(most));
                    drop(input.splice(span.end..span.end, again));
                }
                Edit::Byte { at, value } => {
                    let at = (usize::from(*at) * input.len()) >> 16;
                    if let Some(byte) = input.get_mut(at) {
                        *byte = *value;
                    }
                }
                Edit::End { at } => input.truncate(ends[place(*at)]),
            }
            input.truncate(LONGEST);
        }
        input
    }
}

fn one_of(those: &[Vec<u8>], which: u16) -> &Vec<u8> {
    &those[(usize::from(which) * those.len()) >> 16]
}

/// Where the pieces of an input end: words and numbers, runs of blanks, and each other sign; or one, two and four bytes by turns.
fn cuts(form: Form, input: &[u8]) -> Vec<usize> {
    if form == Form::Binary {
        let mut at = 0;
        let lengths = [2, 2, 1, 1, 2, 4, 4].into_iter().cycle();
        return lengths
            .map_while(|length| {
                (at < input.len()).then(|| {
                    at = (at + length).min(input.len());
                    at
                })
            })
            .collect();
    }
    let sort = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | 0x80.. => 1,
        b' ' | b'\n' => 2,
        _ => 0,
    };
    (1..=input.len())
        .filter(|&at| match (sort(input[at - 1]), input.get(at).map(|&it| sort(it))) {
            (_, None) | (0, _) => true,
            (before, Some(after)) => before != after,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_words_and_signs() {
        assert_eq!(cuts(Form::Text, b"{\"key\": 12}"), [1, 2, 5, 6, 7, 8, 10, 11]);
        assert!(cuts(Form::Text, b"").is_empty());
        assert_eq!(cuts(Form::Binary, &[0; 7]), [2, 4, 5, 6, 7]);
    }

    #[test]
    fn edits_do_what_they_say_at_any_place() {
        let corpus = Corpus::new(Form::Text, vec![b"a b c".to_vec()]);
        let take = Edit::Take { which: 0, at: 0, from: 0 };
        let input = |edit: Edit| String::from_utf8(corpus.input(&[take.clone(), edit])).unwrap();
        assert_eq!(input(Edit::Cut { at: 0, pieces: 2 }), "b c");
        assert_eq!(input(Edit::Cut { at: u16::MAX, pieces: 2 }), "a b c");
        assert_eq!(input(Edit::Repeat { at: 0, pieces: 2, times: 2 }), "a a a b c");
        assert_eq!(input(Edit::Byte { at: u16::MAX, value: b'd' }), "a b d");
        assert_eq!(input(Edit::End { at: 1 << 15 }), "a b");
        assert_eq!(corpus.input(&[]), b"");
        assert_eq!(corpus.input(&[Edit::Byte { at: 0, value: 0 }, Edit::End { at: 9 }]), b"");
    }
}
