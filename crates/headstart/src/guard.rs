//! Crates behind a guard: some panic on files that are damaged, or not what they claim to be, and no file may do that here.
//!
//! Owns: turning its panics into reasons, silently. Never: an error's wording, nor any other code's panics.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// The result of `work`, which is left to the crate of that name, or the words of its panic. What the work was done on must not be used after a panic while it
/// could be half changed.
pub(crate) fn guarded<T>(name: &str, work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    // The usual hook prints; what is caught here is told by the error.
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                usual(info);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        format!("the `{name}` crate gave up on it ({text})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_reason_and_guards_may_stand_in_guards() {
        assert_eq!(guarded("a", || 3), Ok(3));
        let nested = guarded("a", || guarded::<()>("b", || panic!("index {} of {}", 7, 3)).unwrap_err());
        assert_eq!(nested.unwrap(), "the `b` crate gave up on it (index 7 of 3)");
        assert!(!GUARDED.get());
    }
}
