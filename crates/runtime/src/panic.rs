//! What happens on a panic: it is logged with its place. The task in which it happened ends, the process does not.

use std::any::Any;

/// Logs every panic of the process from now on, instead of printing it.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let message = message(info.payload());
        tracing::error!(message, place, thread, "a defect of Weft: please report it");
    }));
}

/// What a panic said.
pub fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_panic_are_found() {
        let plain = std::panic::catch_unwind(|| panic!("plain")).unwrap_err();
        assert_eq!(message(&*plain), "plain");
        let number = 7;
        let formatted = std::panic::catch_unwind(|| panic!("number {number}")).unwrap_err();
        assert_eq!(message(&*formatted), "number 7");
        let other = std::panic::catch_unwind(|| std::panic::panic_any(7)).unwrap_err();
        assert_eq!(message(&*other), "a panic without words");
    }
}
