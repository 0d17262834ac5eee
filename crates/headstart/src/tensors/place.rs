//! Where one tensor's numbers lie in a file, which need not be in the order of its rows.
//!
//! Owns: shapes and strides, compared with the bytes there are before anything is read. Never: names, formats of files.

use std::ops::Range;

use crate::tensors::dtype::Dtype;

/// A tensor in a mapped file. [`Place::new`] has seen that every number lies inside it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// The first number's byte in the file.
    start: usize,
    /// How many numbers further the next one of each dimension lies; empty when they lie in the order of the rows.
    strides: Vec<usize>,
}

impl Place {
    /// A tensor in the order of its rows, in a part of the file that is known to be as long as its shape.
    pub fn in_order(dtype: Dtype, shape: Vec<usize>, start: usize) -> Self {
        Self { dtype, shape, start, strides: Vec::new() }
    }

    /// A view of the storage at `bytes` of a file, whose numbers have `size` bytes.
    ///
    /// # Errors
    /// What does not fit.
    pub fn view(
        dtype: Dtype,
        size: usize,
        bytes: Range<usize>,
        offset: usize,
        shape: Vec<usize>,
        strides: Vec<usize>,
    ) -> Result<Self, String> {
        let stored = bytes.len() / size;
        let outside = || {
            format!("shape {shape:?} with strides {strides:?} from {offset} on leaves its {stored} numbers")
        };
        if shape.len() != strides.len() {
            return Err(format!("has {} dimensions and {} strides", shape.len(), strides.len()));
        }
        let count = count(&shape).ok_or_else(outside)?;
        if count > 0 {
            let last = shape.iter().zip(&strides).try_fold(offset, |last, (n, stride)| {
                stride.checked_mul(n - 1).and_then(|further| last.checked_add(further))
            });
            if last.is_none_or(|last| last >= stored) {
                return Err(outside());
            }
            // A stride of 0 can make a few bytes as large as it likes.
            if count > stored {
                return Err(format!("shape {shape:?} repeats its {stored} numbers"));
            }
        } else if offset > stored {
            return Err(outside());
        }
        let start = bytes.start + offset * size;
        let strides = if is_in_order(&shape, &strides) { Vec::new() } else { strides };
        Ok(Self { dtype, shape, start, strides })
    }

    /// Numbers in one row, which is everything but the first dimension; of a single number, that number.
    pub fn row_len(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Rows; one for a single number.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Where the numbers lie, if they are f32 in the order of the rows.
    pub fn f32_bytes(&self) -> Option<Range<usize>> {
        let in_order = self.dtype == Dtype::F32 && self.strides.is_empty();
        in_order.then(|| self.start..self.start + size_of::<f32>() * self.rows() * self.row_len())
    }

    /// Copies some rows as f32. `values` is as long as they are, the rows are there, and the type can be read.
    pub fn copy_rows(&self, file: &[u8], rows: Range<usize>, values: &mut [f32]) {
        let Some(size) = self.dtype.size().filter(|_| !values.is_empty()) else { return };
        if self.strides.is_empty() {
            let start = self.start + rows.start * self.row_len() * size;
            self.dtype.convert(&file[start..start + values.len() * size], values);
            return;
        }
        // A counter over all dimensions but the last, whose numbers are copied in a loop of their own.
        let (last, outer) = (self.shape.len() - 1, &self.shape[..self.shape.len() - 1]);
        let (len, stride) =
            if last == 0 { (values.len(), self.strides[0]) } else { (self.shape[last], self.strides[last]) };
        let mut index = vec![0; outer.len()];
        let mut at = rows.start * self.strides[0];
        if let Some(first) = index.first_mut() {
            *first = rows.start;
        }
        for run in values.chunks_mut(len) {
            if stride == 1 {
                let start = self.start + at * size;
                self.dtype.convert(&file[start..start + len * size], run);
            } else {
                for (i, value) in run.iter_mut().enumerate() {
                    let start = self.start + (at + i * stride) * size;
                    self.dtype.convert(&file[start..start + size], std::slice::from_mut(value));
                }
            }
            for d in (0..outer.len()).rev() {
                index[d] += 1;
                at += self.strides[d];
                if index[d] < outer[d] {
                    break;
                }
                at -= index[d] * self.strides[d];
                index[d] = 0;
            }
        }
    }
}

/// The numbers in a tensor of this shape; `None` where its dimensions are too large to be multiplied in any order, as they
/// can be beside one of 0.
pub(super) fn count(shape: &[usize]) -> Option<usize> {
    let whole = |product: usize, n: &usize| product.checked_mul((*n).max(1));
    shape.iter().try_fold(1, whole).map(|product| if shape.contains(&0) { 0 } else { product })
}

/// Whether numbers lie one behind the other, the last dimension's first. The stride of a dimension of one means nothing.
fn is_in_order(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(n, stride)| {
        let fits = *n == 1 || *stride == expected;
        expected *= n;
        fits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(shape: &[usize], strides: &[usize], offset: usize, stored: usize) -> Result<Place, String> {
        Place::view(Dtype::F32, 4, 8..8 + 4 * stored, offset, shape.to_vec(), strides.to_vec())
    }

    fn all(place: &Place, file: &[u8], rows: Range<usize>) -> Vec<f32> {
        let mut values = vec![0.0; rows.len() * place.row_len()];
        place.copy_rows(file, rows, &mut values);
        values
    }

    #[test]
    fn views_are_read_as_their_strides_say() {
        let file: Vec<u8> =
            [0.0, 0.0].into_iter().chain((0..24).map(|i| i as f32)).flat_map(f32::to_le_bytes).collect();
        let number = |offset: usize, strides: &[usize], index: &[usize]| {
            offset + strides.iter().zip(index).map(|(s, i)| s * i).sum::<usize>()
        };
        for (shape, strides, offset) in [
            (&[4_usize, 6][..], &[6_usize, 1][..], 0),
            (&[6, 4], &[1, 6], 0),
            (&[2, 3, 4], &[12, 4, 1], 0),
            (&[4, 3, 2], &[1, 4, 12], 0),
            (&[3, 2, 4], &[4, 12, 1], 0),
            (&[3, 2], &[6, 2], 5),
            (&[5], &[4], 3),
            (&[5], &[1], 3),
            (&[], &[], 7),
            (&[1, 1, 3], &[99, 0, 1], 2),
            (&[0, 3], &[3, 1], 24),
        ] {
            let place = view(shape, strides, offset, 24).unwrap();
            let mut expected = Vec::new();
            let mut index = vec![0; shape.len()];
            'all: while shape.iter().all(|n| *n > 0) {
                expected.push(number(offset, strides, &index) as f32);
                for d in (0..shape.len()).rev() {
                    index[d] += 1;
                    if index[d] < shape[d] {
                        continue 'all;
                    }
                    index[d] = 0;
                }
                break;
            }
            assert_eq!(all(&place, &file, 0..place.rows()), expected, "{shape:?} {strides:?}");
            for row in 0..place.rows() {
                let n = place.row_len();
                assert_eq!(all(&place, &file, row..row + 1), expected[row * n..][..n], "{shape:?} row {row}");
            }
        }
    }

    #[test]
    fn only_f32_in_order_can_be_used_in_place() {
        assert_eq!(view(&[2, 3], &[3, 1], 1, 7).unwrap().f32_bytes(), Some(12..36));
        assert_eq!(view(&[3, 2], &[1, 3], 1, 7).unwrap().f32_bytes(), None);
        assert_eq!(Place::in_order(Dtype::F16, vec![2], 0).f32_bytes(), None);
    }

    #[test]
    fn nothing_outside_the_storage_is_a_view_of_it() {
        let max = usize::MAX;
        for (shape, strides, offset, says) in [
            (&[2_usize, 3][..], &[3_usize, 1][..], 2, "leaves its 7 numbers"),
            (&[2, 3], &[3], 0, "2 dimensions and 1 strides"),
            (&[max, max], &[1, 1], 0, "leaves"),
            (&[2], &[max], 0, "leaves"),
            (&[3], &[max / 2], 2, "leaves"),
            (&[1], &[1], max, "leaves"),
            (&[0], &[1], 8, "leaves"),
            (&[100], &[0], 0, "repeats"),
        ] {
            let error = view(shape, strides, offset, 7).unwrap_err();
            assert!(error.contains(says), "{shape:?}: {error}");
        }
    }
}
