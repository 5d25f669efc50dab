//! Text that others have written, for messages: cut to a length, and without what a terminal obeys.

use std::borrow::Cow;

/// Cuts `text` to at most `most` bytes, between two characters.
pub fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        let at = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(at);
    }
}

/// As one line: control characters and what else ends a line or turns its direction are escaped.
fn one_line(text: &str) -> Cow<'_, str> {
    let is_obeyed = |sign: char| {
        sign.is_control()
            || matches!(sign, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len());
    for sign in text.chars() {
        if is_obeyed(sign) { line.extend(sign.escape_default()) } else { line.push(sign) }
    }
    Cow::Owned(line)
}

/// As a message for a runtime, which passes it on to logs and events: one line, of a length that these take.
pub fn message(text: &str) -> String {
    const LONGEST: usize = 4096;
    let mut line = one_line(text).into_owned();
    if line.len() > LONGEST {
        cut(&mut line, LONGEST);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_nothing_in_it_that_a_terminal_obeys() {
        assert!(matches!(one_line("a \u{e4} \"b\""), Cow::Borrowed("a \u{e4} \"b\"")));
        assert_eq!(one_line("a\n\u{1b}[31mb\u{85}\u{202e}"), r"a\n\u{1b}[31mb\u{85}\u{202e}");
        assert_eq!(message(&"\0".repeat(5000)).len(), 4096 + '…'.len_utf8());
    }

    #[test]
    fn text_is_cut_between_characters() {
        for (most, left) in [(0, ""), (1, "a"), (2, "a"), (3, "aä"), (4, "aäb"), (9, "aäb")] {
            let mut text = "aäb".to_owned();
            cut(&mut text, most);
            assert_eq!(text, left, "{most}");
        }
    }
}
