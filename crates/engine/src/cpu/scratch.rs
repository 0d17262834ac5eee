//! Work space of a thread, kept from task to task: a task allocates nothing once its thread has run a few.

use std::cell::Cell;

thread_local! {
    static ROWS: Cell<[Vec<f32>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// Lends two rows of `cols` numbers, with whatever they held.
pub(crate) fn with_rows<R>(cols: usize, work: impl FnOnce(&mut [f32], &mut [f32]) -> R) -> R {
    // Taken, not borrowed: work inside work finds empty rows, nothing worse.
    let mut rows = ROWS.take();
    for row in &mut rows {
        if row.len() < cols {
            row.resize(cols, 0.0);
        }
    }
    let [a, b] = &mut rows;
    let result = work(&mut a[..cols], &mut b[..cols]);
    ROWS.set(rows);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_kept_and_may_be_lent_inside_each_other() {
        let first = with_rows(10, |a, b| {
            assert_eq!((a.len(), b.len()), (10, 10));
            with_rows(30, |a, _| a.fill(1.0));
            a.fill(2.0);
            a.as_ptr()
        });
        assert_eq!(with_rows(10, |a, _| (a.as_ptr(), a[9])), (first, 2.0));
    }
}
