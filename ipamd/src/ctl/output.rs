//! Tables for people, JSON for programs.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    str::FromStr,
};

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
        match io::stdout().write_all(text.as_bytes()) {
            // Whoever reads has seen enough (`| head`).
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => Ok(result?),
        }
    }
}

/// Lines up cells in columns below their titles.
pub(super) fn table<const N: usize>(
    titles: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut lines = vec![titles.map(str::to_owned)];
    lines.extend(rows);
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
            let _ = writeln!(text, "{name:width$}  {line}");
        }
    }
    text
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
}
