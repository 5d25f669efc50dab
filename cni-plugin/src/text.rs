//! Cutting text to a length.

/// Cuts `text` to at most `most` bytes, between two characters.
pub fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        let at = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters() {
        for (most, left) in [(0, ""), (1, "a"), (2, "a"), (3, "aä"), (4, "aäb"), (9, "aäb")] {
            let mut text = "aäb".to_owned();
            cut(&mut text, most);
            assert_eq!(text, left, "{most}");
        }
    }
}
