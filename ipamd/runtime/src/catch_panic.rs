//! Turns sled's panics into errors.

use std::{
    cell::RefCell,
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    sync::Once,
};

thread_local! {
    /// Where this thread's panics go instead of stderr, while [`catch_panic`] is on.
    static NOTED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `act`; a panic in it is not printed but returned, as its message and place.
pub fn catch_panic<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let shown = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !note(info) {
                shown(info);
            }
        }));
    });
    NOTED.set(Some(String::new()));
    // What `act` has touched is given up by the caller if it panics.
    let result = panic::catch_unwind(AssertUnwindSafe(act));
    let noted = NOTED.take().unwrap_or_default();
    result.map_err(|_| noted)
}

/// Takes the panic down if this thread wants that. Where a panic ends the process it must be seen.
fn note(info: &PanicHookInfo) -> bool {
    if cfg!(panic = "abort") {
        return false;
    }
    NOTED.with(|noted| {
        let Ok(mut noted) = noted.try_borrow_mut() else { return false };
        let Some(text) = noted.as_mut() else { return false };
        // The first says why; the others follow from it.
        if text.is_empty() {
            *text = format!("{} at {}", message(info), place(info));
        }
        true
    })
}

/// What a panic says.
pub fn message<'a>(info: &'a PanicHookInfo) -> &'a str {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic")
}

/// Where it happened, as a file and a line.
pub fn place(info: &PanicHookInfo) -> String {
    info.location().map_or_else(
        || "an unknown place".into(),
        |location| {
            let file = location.file().rsplit('/').next().unwrap_or_default();
            format!("{file}:{}", location.line())
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        assert_eq!(catch_panic(|| 7), Ok(7));
        let message = catch_panic(|| panic!("segment {} is torn", 3)).unwrap_err();
        assert!(message.starts_with("segment 3 is torn at catch_panic.rs:"), "{message}");
        assert_eq!(catch_panic(|| 8), Ok(8));
    }
}
