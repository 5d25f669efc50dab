//! Tables for people, JSON for programs.

use std::{
    fmt::Write as _,
    io::{self, Write},
    ops::ControlFlow,
    os::fd::AsFd,
    str::FromStr,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(super) enum Format {
    Table,
    Json,
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            _ => Err("output formats are table and json"),
        }
    }
}

/// Standard output.
#[derive(Debug)]
pub(super) struct Output {
    format: Format,
}

impl Output {
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    /// Prints `value` as JSON, or as what `table` makes of it.
    pub fn print<T: Serialize + ?Sized>(
        &self,
        value: &T,
        table: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Json => serde_json::to_string_pretty(value)? + "\n",
            Format::Table => table(value),
        };
        // Whether or not anybody has read all of it.
        let _ = write(&mut io::stdout(), &text)?;
        Ok(())
    }

    /// Prints some of many values, each on a line of its own: as JSON, or as what `line` makes of it. Breaks once nobody
    /// reads any more.
    pub fn stream<T: Serialize>(
        &self,
        values: &[T],
        line: impl Fn(&T) -> String,
    ) -> anyhow::Result<ControlFlow<()>> {
        let mut text = String::new();
        for value in values {
            match self.format {
                Format::Json => text.push_str(&serde_json::to_string(value)?),
                Format::Table => text.push_str(&line(value)),
            }
            text.push('\n');
        }
        if text.is_empty() {
            return Ok(reader(&io::stdout()));
        }
        Ok(write(&mut io::stdout(), &text)?)
    }
}

/// Writes a text at once. Breaks if whoever reads has seen enough (`| head`).
fn write(to: &mut impl Write, text: &str) -> io::Result<ControlFlow<()>> {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(error),
    }
}

/// Breaks if nobody reads what would be written.
fn reader(of: &impl AsFd) -> ControlFlow<()> {
    let mut fds = [PollFd::new(of.as_fd(), PollFlags::empty())];
    let left = PollFlags::POLLERR | PollFlags::POLLHUP;
    let polled = poll(&mut fds, PollTimeout::ZERO);
    let [fd] = &fds;
    match polled {
        Ok(1..) if fd.revents().is_some_and(|told| told.intersects(left)) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    }
}

/// A text that a terminal shows as it is: what would move its cursor, break its lines or turn its writing is escaped.
pub(super) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// Lines up cells in columns below their titles.
pub(super) fn table<const N: usize>(
    titles: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut lines = vec![titles.map(str::to_owned)];
    lines.extend(rows.into_iter().map(|row| row.map(|cell| clean(&cell))));
    let widths: [usize; N] = std::array::from_fn(|column| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)
    });
    let mut text = String::new();
    for line in lines {
        let mut padded = String::new();
        for (cell, width) in line.iter().zip(widths) {
            // Writing to a String does not fail.
            let _ = write!(padded, "{cell:width$}  ");
        }
        text.push_str(padded.trim_end());
        text.push('\n');
    }
    text
}

/// Lines up values behind their names; what has no value is left out.
pub(super) fn fields<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let fields = fields.into_iter().filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>();
    let width = fields.iter().map(|(name, _)| name.len() + 1).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in fields {
        let name = format!("{name}:");
        for (at, line) in value.lines().enumerate() {
            let name = if at == 0 { name.as_str() } else { "" };
            // Writing to a String does not fail.
            let _ = writeln!(text, "{name:width$}  {}", clean(line));
        }
    }
    text
}

/// So many of something.
pub(super) fn counted(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".to_owned(), "1".to_owned()], ["long".to_owned(), String::new()]];
        assert_eq!(table(["NAME", "X"], rows), "NAME  X\na     1\nlong\n");
    }

    #[test]
    fn values_stand_below_each_other() {
        let text = fields([("Name", "n".to_owned()), ("Labels", "a\nb".to_owned()), ("None", String::new())]);
        assert_eq!(text, "Name:    n\nLabels:  a\n         b\n");
    }

    #[test]
    fn a_terminal_takes_no_orders_from_what_is_shown() {
        assert_eq!(clean("ä \"b\"\\"), "ä \"b\"\\");
        assert_eq!(clean("\u{1b}[2J\r\n\u{9b}\u{202e}"), "\\u{1b}[2J\\r\\n\\u{9b}\\u{202e}");
        let rows = [["\u{1b}c".to_owned(), "1".to_owned()]];
        assert_eq!(table(["NAME", "X"], rows), "NAME     X\n\\u{1b}c  1\n");
        assert_eq!(fields([("Name", "\u{7}".to_owned())]), "Name:  \\u{7}\n");
    }

    #[test]
    fn who_has_read_enough_ends_it() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(reader(&ours).is_continue());
        assert!(write(&mut &ours, "x").unwrap().is_continue());
        drop(theirs);
        assert!(reader(&ours).is_break());
        assert!(write(&mut &ours, "x").unwrap().is_break());
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "flow")), ["0 flows", "1 flow", "2 flows"]);
    }
}
