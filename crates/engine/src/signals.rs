//! Signals that stay ignored.
//!
//! Owns: the system's calls for it, which are unsafe. Never: handles a signal; the program does that.

/// Sets handlers by `set`, and leaves those signals ignored that were: `nohup` and a shell's background jobs rely on it.
pub fn keep_ignored<T>(set: impl FnOnce() -> T) -> T {
    let ignored = system::stopping_and_ignored();
    let result = set();
    for signal in ignored {
        system::ignore(signal);
    }
    result
}

/// From now on a write beyond the limit for files (`ulimit -f`) is an error like a full disk, and does not end the process.
pub fn report_writes_beyond_limit() {
    #[cfg(unix)]
    system::ignore(libc::SIGXFSZ);
}

#[cfg(unix)]
mod system {
    use std::mem::MaybeUninit;
    use std::ptr;

    use libc::c_int;

    /// Those signals that ask a process to stop which it was started to ignore.
    pub fn stopping_and_ignored() -> Vec<c_int> {
        let stopping = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
        stopping.into_iter().filter(|&signal| is_ignored(signal)).collect()
    }

    fn is_ignored(signal: c_int) -> bool {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: without a new action the call only writes the old one to the structure that is passed, which is of
        // its type; all zeros are one of its values.
        unsafe {
            libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) == 0
                && action.assume_init().sa_sigaction == libc::SIG_IGN
        }
    }

    pub fn ignore(signal: c_int) {
        // SAFETY: SIG_IGN runs no code of this process.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn an_ignored_signal_is_known() {
            // Nothing else in this process cares about window sizes.
            assert!(!is_ignored(libc::SIGWINCH));
            ignore(libc::SIGWINCH);
            assert!(is_ignored(libc::SIGWINCH));
        }
    }
}

#[cfg(not(unix))]
mod system {
    pub fn stopping_and_ignored() -> [i32; 0] {
        []
    }

    pub fn ignore(_: i32) {}
}
