//! Sums whose parts come from several ranks: added on the device in the order of `collective/tree.rs`.

use super::{THREADS, dtype, elements, int};
use crate::cuda::{Context, DevicePtr, Module};
use crate::dtype::DType;

const PARTS: Module = Module { name: "parts", text: include_str!("../kernels/parts.cu") };

/// The most parts that one sum has.
pub(crate) const MOST_PARTS: usize = 64;

/// The parts of a sum, f32, in the order of the ranks they come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    /// This rank's own.
    pub(crate) own: DevicePtr,
    /// Its place among them.
    pub(crate) own_index: usize,
    /// The first of the others, which lie in their order, without the own one between them.
    pub(crate) others: DevicePtr,
    /// Elements from one of the others to the next.
    pub(crate) stride: usize,
    /// How many there are, the own one included: a power of two up to 64.
    pub(crate) count: usize,
}

/// to[i] = the sum of the parts' i-th elements, for i < len, added as `tree::fold` does. `to` may be the own part.
///
/// # Panics
/// When there is no such tree.
pub(crate) fn fold(cuda: &Context, parts: &Parts, to: DevicePtr, len: usize) {
    let Parts { own, own_index, others, stride, count } = *parts;
    assert!(count.is_power_of_two() && count <= MOST_PARTS && own_index < count, "{parts:?}");
    let arguments = [
        own.into(),
        int(own_index),
        (count > 1).then_some(others).into(),
        (stride as u64).into(),
        int(count),
        to.into(),
        (len as u64).into(),
    ];
    cuda.launch(PARTS, "fold_parts", elements(len), THREADS, 0, &arguments);
}

/// to[i] += from[i] for i < len, both f32.
pub(crate) fn add(cuda: &Context, to: DevicePtr, from: DevicePtr, len: usize) {
    let arguments = [to.into(), from.into(), dtype(DType::F32), (len as u64).into()];
    cuda.launch(super::elementwise::ELEMENTWISE, "add", elements(len), THREADS, 0, &arguments);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::tree;
    use crate::rng::Stream;

    /// Numbers of very different sizes, so that another order of adding gives other bits.
    fn draw(count: usize, seed: u64) -> Vec<f32> {
        let mut stream = Stream::new(seed);
        (0..count).map(|i| (stream.normal() * 10.0_f64.powi((i % 7) as i32 - 3)) as f32).collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn parts_are_added_as_the_tree_has_them_bit_for_bit() {
        let Some(device) = crate::testing::shared_gpu() else { return };
        let cuda = device.cuda().unwrap();
        for count in [1, 2, 4, 8, 16, 32, 64] {
            for (len, stride) in [(1, 1), (127, 130), (1000, 1000)] {
                let all: Vec<Vec<f32>> = (0..count).map(|p| draw(len, (count * 100 + p) as u64)).collect();
                let sum = |i: usize| tree::fold(all.iter().map(|part| part[i]), |a, b| a + b).unwrap();
                let expected: Vec<f32> = (0..len).map(sum).collect();
                let in_order: Vec<f32> = (0..len).map(|i| all.iter().map(|part| part[i]).sum()).collect();
                assert!(count < 4 || len < 2 || bits(&in_order) != bits(&expected), "any order would pass");
                for own_index in [0, count / 2, count - 1] {
                    let mut others = vec![f32::NAN; stride * (count - 1)];
                    let rest = all.iter().enumerate().filter(|(p, _)| *p != own_index);
                    for (place, (_, part)) in others.chunks_mut(stride).zip(rest) {
                        place[..len].copy_from_slice(part);
                    }
                    let own = cuda.upload(&all[own_index]);
                    let others = cuda.upload(&others);
                    let parts = Parts { own: own.ptr(), own_index, others: others.ptr(), stride, count };
                    // Into memory of its own, then in place of its own part.
                    let elsewhere = cuda.upload(&vec![0.0_f32; len]);
                    for to in [elsewhere.ptr(), own.ptr()] {
                        fold(cuda, &parts, to, len);
                        let mut found = vec![0.0_f32; len];
                        cuda.download(&mut found, to);
                        cuda.check().unwrap();
                        assert_eq!(bits(&found), bits(&expected), "{count} parts of {len}, own {own_index}");
                    }
                }
            }
        }
    }

    #[test]
    fn one_is_added_to_another() {
        let Some(device) = crate::testing::shared_gpu() else { return };
        let cuda = device.cuda().unwrap();
        let (a, b) = (draw(1001, 1), draw(1001, 2));
        let (to, from) = (cuda.upload(&a), cuda.upload(&b));
        add(cuda, to.ptr(), from.ptr(), 1000);
        let mut found = vec![0.0_f32; 1001];
        cuda.download(&mut found, to.ptr());
        cuda.check().unwrap();
        let expected: Vec<f32> =
            a.iter().zip(&b).enumerate().map(|(i, (a, b))| if i < 1000 { a + b } else { *a }).collect();
        assert_eq!(bits(&found), bits(&expected));
    }
}
