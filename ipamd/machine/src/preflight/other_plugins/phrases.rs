//! Parts of the sentences that the checks tell.

use super::plugin::Plugin;

/// A remedy: commands for when the plugin is gone, which would else put back what they remove.
pub(super) fn once_gone(plugin: Plugin, commands: &[String]) -> String {
    let are = if plugin == Plugin::Reference { "are" } else { "is" };
    format!("once {plugin} {are} gone from this node: {}", commands.join("; "))
}

pub(super) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A list in a sentence.
pub(super) fn in_words(parts: &[String]) -> String {
    match parts.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}
