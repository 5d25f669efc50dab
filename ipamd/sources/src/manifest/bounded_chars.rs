//! An iterator over a file's characters that bounds what the YAML parser may buffer. The parser holds a whole flow
//! collection (`{...}`, `[...]`) before it reports its start, some hundred bytes for each word.

use std::{cell::Cell, rc::Rc, str::Chars};

/// How many characters that end a word may follow each other without the parser telling anything.
pub(super) const AHEAD: usize = 1_000_000;

/// What is left to read, seen from outside the parser.
#[derive(Clone, Debug)]
pub(super) struct Meter(Rc<Cell<Option<usize>>>);

impl Meter {
    /// Takes note that the parser has told something.
    pub fn renew(&self) {
        if !self.overrun() {
            self.0.set(Some(AHEAD));
        }
    }

    /// Whether the parser has asked for more than it may hold.
    pub fn overrun(&self) -> bool {
        self.0.get().is_none()
    }
}

/// The characters.
#[derive(Debug)]
pub(super) struct BoundedChars<'a> {
    chars: Chars<'a>,
    meter: Meter,
}

impl<'a> BoundedChars<'a> {
    pub fn new(text: &'a str) -> (Self, Meter) {
        let meter = Meter(Rc::new(Cell::new(Some(AHEAD))));
        (Self { chars: text.chars(), meter: meter.clone() }, meter)
    }
}

impl Iterator for BoundedChars<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let left = self.meter.0.get()?;
        let next = self.chars.next();
        if let Some(',' | ':' | '?' | '{' | '}' | '[' | ']' | '&' | '*' | '!') = next {
            self.meter.0.set(left.checked_sub(1));
        }
        next
    }
}
