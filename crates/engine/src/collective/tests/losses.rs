//! Ranks that end before the others, well or not, as threads.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{LONG, on_all};
use crate::collective::Collective;

/// Exchanges until there is an error: its text.
fn until_error(collective: &Collective) -> String {
    loop {
        if let Err(e) = collective.gather_equal(&[0; 1000]) {
            assert_eq!(collective.check().unwrap_err().to_string(), e.to_string());
            return e.to_string();
        }
    }
}

#[test]
fn a_rank_that_goes_without_a_word_is_named_by_all_others() {
    for lost in 0..4 {
        let errors = on_all(4, LONG, |collective| {
            if collective.rank() != lost {
                return until_error(&collective);
            }
            for _ in 0..10 {
                collective.gather_equal(&[0; 1000]).unwrap();
            }
            String::new()
        });
        for error in errors.iter().enumerate().filter(|(rank, _)| *rank != lost).map(|(_, error)| error) {
            assert!(
                error.starts_with(&format!("rank {lost} is gone: its connection was closed\n")),
                "{error}"
            );
        }
    }
}

#[test]
fn a_rank_that_fails_tells_the_others_why() {
    for failing in [0, 2] {
        let errors = on_all(3, LONG, |collective| {
            if collective.rank() != failing {
                return until_error(&collective);
            }
            collective.gather_equal(&[0; 1000]).unwrap();
            collective.fail("cannot read x.csv\n  fix: see\n3\n4\n5\n6");
            String::new()
        });
        for error in errors.iter().filter(|error| !error.is_empty()) {
            let words = format!("rank {failing} failed: cannot read x.csv\n  fix: see\n3\n4\n  fix: ");
            assert!(error.starts_with(&words), "{error}");
        }
        assert_eq!(errors.iter().filter(|error| !error.is_empty()).count(), 2);
    }
}

#[test]
fn a_rank_that_leaves_is_no_loss_whoever_goes_first() {
    for first in 0..3 {
        on_all(3, Duration::from_secs(3), |collective| {
            collective.gather_equal(&[1]).unwrap();
            if collective.rank() != first {
                sleep(Duration::from_secs(4));
            }
            let start = Instant::now();
            collective.check().unwrap();
            collective.leave();
            collective.check().unwrap();
            assert!(start.elapsed() < Duration::from_secs(4), "leaving takes {:?}", start.elapsed());
        });
    }
}

#[test]
fn a_long_computation_is_no_silence() {
    on_all(2, Duration::from_secs(3), |collective| {
        if collective.rank() == 1 {
            let until = Instant::now() + Duration::from_secs(7);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        }
        collective.gather_equal(&[1]).unwrap();
        collective.check().unwrap();
        collective.leave();
    });
}

#[test]
fn a_stop_asked_for_on_one_rank_is_heard_by_all() {
    for asked in 0..3 {
        on_all(3, LONG, |collective| {
            assert!(!collective.stop_asked() || collective.rank() != asked);
            if collective.rank() == asked {
                collective.ask_stop();
            }
            let start = Instant::now();
            while !collective.stop_asked() {
                assert!(start.elapsed() < LONG);
                sleep(Duration::from_millis(1));
            }
            collective.gather_equal(&[1]).unwrap();
            collective.leave();
        });
    }
}

#[test]
fn what_a_rank_sent_before_it_left_still_arrives() {
    on_all(2, LONG, |collective| {
        if collective.leads() {
            collective.exchange(&[(1, &[7; 1000])], &mut []).unwrap();
            return collective.leave();
        }
        sleep(Duration::from_millis(300));
        let mut bytes = [0; 1000];
        collective.exchange(&[], &mut [(0, &mut bytes)]).unwrap();
        assert_eq!(bytes, [7; 1000]);
        // And what it did not send does not: whether the watch knows of a loss or not, there is an error soon.
        assert!(collective.exchange(&[], &mut [(0, &mut bytes)]).is_err());
    });
}
