//! The runtime's tests: on the emulated libraries where there is no GPU, skipped with a reason where there is neither.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::ops::adam::OPTIMIZER;
use super::ops::elementwise::{copy, padded};
use super::{CudaOptions, Matrix, Write, gpus};
use crate::cpu::convert::round_bf16;
use crate::ops::adam::{Adam, Decay, Range, squared_norm};
use crate::rng::Stream;
use crate::testing::{close, gpu, shared_gpu};
use crate::{CodePath, DType, Device, EngineError, Flat, Gradients, Tensor, View, Weights};

fn cpu() -> Device {
    Device::cpu(None, CodePath::Auto).unwrap()
}

/// Numbers that bf16 holds exactly.
fn draw(seed: u64, n: usize) -> Vec<f32> {
    let mut stream = Stream::new(seed);
    (0..n).map(|_| round_bf16(stream.normal() as f32).to_f32()).collect()
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_that_says_so() {
    if gpu().is_none() {
        return;
    }
    let found = gpus(&CudaOptions::default()).unwrap();
    assert!(found.iter().enumerate().all(|(i, gpu)| gpu.ordinal == i && !gpu.name.is_empty()));
    let error = Device::gpu(99, None, &CudaOptions::default()).unwrap_err().to_string();
    assert!(error.contains("no GPU 99") && error.contains("fix: "), "{error}");
}

#[test]
fn tensors_go_there_and_back_and_their_buffers_are_reused() {
    let Some(device) = gpu() else { return };
    let values = draw(1, 77);
    let there = Tensor::from_f32(device.pool(), 7, 11, &values);
    assert_eq!(there.to_f32_vec(), values);
    assert!(Tensor::zeros(device.pool(), 3, 5, DType::Bf16).to_f32_vec().iter().all(|x| x.to_bits() == 0));
    let bytes = device.pooled_bytes();
    for _ in 0..3 {
        drop(Tensor::uninit(device.pool(), 3, 5, DType::Bf16));
    }
    assert_eq!(device.pooled_bytes(), bytes);
    device.check().unwrap();
}

#[test]
fn products_are_those_of_plain_sums() {
    let Some(device) = gpu() else { return };
    let cuda = device.cuda().unwrap();
    for (m, n, k) in [(1, 1, 1), (3, 5, 7), (33, 41, 29), (64, 410, 8)] {
        for (turn_a, turn_b) in [(false, false), (true, false), (false, true), (true, true)] {
            let (a, b, start) = (draw(1, m * k), draw(2, k * n), draw(3, m * n));
            let at = |turned: bool, rows: usize, cols: usize, r: usize, c: usize| {
                if turned { c * rows + r } else { r * cols + c }
            };
            let exact: Vec<f64> = (0..m * n)
                .map(|i| {
                    let term = |j| {
                        let a = a[at(turn_a, m, k, i / n, j)];
                        f64::from(a) * f64::from(b[at(turn_b, k, n, j, i % n)])
                    };
                    (0..k).map(term).sum()
                })
                .collect();
            for inputs in [DType::F32, DType::Bf16] {
                let put = |values: &[f32]| {
                    let plain = Tensor::from_f32(device.pool(), 1, values.len(), values);
                    if inputs == DType::F32 {
                        return plain;
                    }
                    let narrow = Tensor::uninit(device.pool(), 1, values.len(), DType::Bf16);
                    super::ops::elementwise::narrow(
                        cuda,
                        plain.device_ptr(),
                        narrow.device_ptr(),
                        values.len(),
                    );
                    narrow
                };
                let (left, right) = (put(&a), put(&b));
                let matrix = |tensor: &Tensor, turned: bool, rows: usize, cols: usize| {
                    let (r, c) = if turned { (cols, rows) } else { (rows, cols) };
                    let matrix = Matrix::new(tensor.device_ptr(), r, c, inputs);
                    if turned { matrix.transposed() } else { matrix }
                };
                let (left, right) = (matrix(&left, turn_a, m, k), matrix(&right, turn_b, k, n));
                let what = format!("{m} x {n} x {k} {turn_a} {turn_b} {inputs:?}");
                let out = Tensor::from_f32(device.pool(), m, n, &start);
                cuda.matmul(left, right, out.matrix(), Write::Replace);
                close(&out.to_f32_vec(), &exact, 2e-6, &what);
                let out = Tensor::from_f32(device.pool(), m, n, &start);
                cuda.matmul(left, right, out.matrix(), Write::Add);
                let added: Vec<f64> = exact.iter().zip(&start).map(|(x, s)| x + f64::from(*s)).collect();
                close(&out.to_f32_vec(), &added, 2e-6, &what);
                let out = Tensor::uninit(device.pool(), m, n, DType::Bf16);
                if inputs == DType::Bf16 {
                    cuda.matmul(left, right, out.matrix(), Write::Replace);
                    close(&out.to_f32_vec(), &exact, 4e-3, &what);
                }
            }
        }
    }
    device.check().unwrap();
}

#[test]
fn a_narrow_output_is_rounded_once() {
    let Some(device) = gpu() else { return };
    // 256, and as much again in small parts as a bf16 sum would lose each time.
    let k = 1_024;
    let small = Tensor::from_f32(device.pool(), 1, k, &vec![0.015_625; k]);
    let mut values = vec![1.0; k];
    values[0] = 16_384.0;
    let other = Tensor::from_f32(device.pool(), 1, k, &values);
    let cuda = device.cuda().unwrap();
    let [a, b] = [&small, &other].map(|x| super::ops::elementwise::copy(cuda, device.pool(), x, DType::Bf16));
    let out = Tensor::uninit(device.pool(), 1, 1, DType::Bf16);
    cuda.matmul(a.matrix(), b.matrix().transposed(), out.matrix(), Write::Replace);
    assert_eq!(out.to_f32_vec(), [round_bf16(256.0 + 1_023.0 / 64.0).to_f32()]);
    device.check().unwrap();
}

#[test]
fn adam_and_the_norm_are_the_processors() {
    let (Some(device), cpu) = (gpu(), cpu()) else { return };
    let n = 70_001;
    for decay in [Decay::Coupled, Decay::Decoupled] {
        let adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay };
        let run = |device: &Device| {
            let mut weights = Weights::new(draw(1, n));
            let (mut m, mut v) = (Flat::zeros(n), Flat::zeros(n));
            let mut gradients = Gradients::new(n);
            let mut norms = Vec::new();
            for step in 1..=3 {
                gradients.values_mut().copy_from_slice(&draw(1 + step, n));
                norms.push(squared_norm(device, &gradients).wait());
                let part = |start, len, weight_decay| Range {
                    start,
                    grad: start,
                    moment: start,
                    len,
                    lr: 1e-3,
                    weight_decay,
                    step,
                };
                let ranges = [part(0, 1_000, 0.0), part(1_000, n - 1_000, 0.01)];
                adam.step(device, &mut weights, &mut gradients, &mut m, &mut v, &ranges, 0.5);
                assert!(gradients.values().iter().all(|&g| g.to_bits() == 0));
            }
            device.check().unwrap();
            (weights.values().to_vec(), m.values().to_vec(), v.values().to_vec(), norms)
        };
        let (ours, theirs) = (run(&device), run(&cpu));
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        close(&ours.0, &wide(&theirs.0), 1e-6, "weights");
        close(&ours.1, &wide(&theirs.1), 1e-6, "first moments");
        close(&ours.2, &wide(&theirs.2), 1e-6, "second moments");
        for (a, b) in ours.3.iter().zip(&theirs.3) {
            assert!((a / b - 1.0).abs() < 1e-12, "{a} {b}");
        }
        assert!(run(&device) == ours, "the same bits in every run");
    }
}

/// Ranges with rates, decays and step counts of their own, most of them no whole number of blocks; in the weights frozen
/// parameters lie between them. With the numbers of weights and of gradients.
fn uneven_ranges(step: u64) -> (Vec<Range>, usize, usize) {
    let block = super::ops::adam::ELEMENTS_PER_BLOCK;
    let lens = [1, 3, block, 255, 257, block - 1, 0, block + 1, 31, 3 * block + 77, 5];
    let (mut ranges, mut start, mut grad) = (Vec::new(), 13, 0);
    for (i, len) in lens.into_iter().enumerate() {
        let lr = 1e-3 * (1 + i) as f32;
        let weight_decay = [0.0, 0.01, 0.03][i % 3];
        ranges.push(Range { start, grad, moment: grad, len, lr, weight_decay, step: step + i as u64 });
        start += len + [0, 1, 130][i % 3];
        grad += len;
    }
    (ranges, start + 9, grad)
}

#[test]
fn one_launch_updates_every_range_and_nothing_else() {
    let (Some(device), cpu) = (shared_gpu(), cpu()) else { return };
    let (ranges, n, trained) = uneven_ranges(1);
    let mut frozen = vec![true; n];
    for range in &ranges {
        frozen[range.start..range.start + range.len].fill(false);
    }
    assert!(frozen.iter().filter(|f| **f).count() == n - trained);
    for decay in [Decay::Coupled, Decay::Decoupled] {
        let adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay };
        let run = |device: &Device, by_itself: bool| {
            let mut weights = Weights::new(draw(1, n));
            let (mut m, mut v) = (Flat::zeros(trained), Flat::zeros(trained));
            let mut gradients = Gradients::new(trained);
            for step in 1..=2 {
                let (ranges, ..) = uneven_ranges(step);
                for ranges in ranges.chunks(if by_itself { 1 } else { ranges.len() }) {
                    for (g, x) in gradients.values_mut().iter_mut().zip(draw(1 + step, trained)) {
                        // Far enough from 0 that decay never cancels it: Adam would divide what is left by itself.
                        *g = x + 0.25_f32.copysign(x);
                    }
                    adam.step(device, &mut weights, &mut gradients, &mut m, &mut v, ranges, 0.7);
                }
                assert!(gradients.values().iter().all(|&g| g.to_bits() == 0));
            }
            device.check().unwrap();
            [weights.values().to_vec(), m.values().to_vec(), v.values().to_vec()]
        };
        let (ours, theirs) = (run(device, false), run(&cpu, false));
        assert!(run(device, true) == ours, "other bits when every range is a step of its own");
        for (found, expected) in ours.iter().zip(&theirs) {
            let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
            close(found, &expected, 1e-6, &format!("{decay:?}"));
        }
        let start = draw(1, n);
        assert!((0..n).all(|i| !frozen[i] || ours[0][i].to_bits() == start[i].to_bits()));
    }
}

#[test]
fn a_range_that_is_not_listed_keeps_weights_and_moments_and_loses_its_gradient() {
    let cpu = cpu();
    let (all, n, trained) = uneven_ranges(1);
    // At the second step every other range does not train.
    let listed = |step: u64| {
        let (all, ..) = uneven_ranges(step);
        let trains = |i: usize| step != 2 || i.is_multiple_of(2);
        all.into_iter().enumerate().filter(|(i, _)| trains(*i)).map(|(_, range)| range).collect::<Vec<_>>()
    };
    let adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: Decay::Decoupled };
    let run = |device: &Device, steps: u64| {
        let mut weights = Weights::new(draw(1, n));
        let (mut m, mut v) = (Flat::zeros(trained), Flat::zeros(trained));
        let mut gradients = Gradients::new(trained);
        for step in 1..=steps {
            gradients.values_mut().copy_from_slice(&draw(1 + step, trained));
            adam.step(device, &mut weights, &mut gradients, &mut m, &mut v, &listed(step), 0.7);
            assert!(gradients.values().iter().all(|&g| g.to_bits() == 0), "step {step} on {}", device.name());
        }
        device.check().unwrap();
        [weights.values().to_vec(), m.values().to_vec(), v.values().to_vec()]
    };
    for device in [&cpu].into_iter().chain(shared_gpu()) {
        let (before, after) = (run(device, 1), run(device, 2));
        for (i, range) in all.iter().enumerate().filter(|(_, range)| range.len > 0) {
            let firsts = [range.start, range.grad, range.grad];
            for ((before, after), first) in before.iter().zip(&after).zip(firsts) {
                let span = first..first + range.len;
                let same =
                    before[span.clone()].iter().zip(&after[span]).all(|(b, a)| b.to_bits() == a.to_bits());
                assert_eq!(same, i % 2 == 1, "range {i} on {}", device.name());
            }
        }
    }
    if let Some(gpu) = shared_gpu() {
        for (ours, theirs) in run(gpu, 3).iter().zip(&run(&cpu, 3)) {
            let theirs: Vec<f64> = theirs.iter().map(|&x| f64::from(x)).collect();
            close(ours, &theirs, 1e-5, "three steps");
        }
    }
}

#[test]
fn bf16_weights_follow_the_values() {
    let Some(device) = shared_gpu() else { return };
    let cuda = device.cuda().unwrap();
    let mut weights = Weights::new(draw(1, 100));
    let view = View { offset: 10, rows: 5, cols: 4, grad: None };
    for _ in 0..3 {
        for value in weights.values_mut() {
            *value += 1.0;
        }
        let at = weights.device_bf16(cuda, view);
        assert_eq!(at, weights.device_bf16(cuda, view));
        let mut found = vec![half::bf16::ZERO; 20];
        cuda.download(&mut found, at);
        let expected: Vec<_> = weights.get(view).iter().map(|&x| round_bf16(x)).collect();
        assert_eq!(found, expected);
        let mut found = vec![0.0_f32; 20];
        cuda.download(&mut found, weights.device_f32(cuda, view));
        assert_eq!(found, weights.get(view));
    }
}

#[test]
fn a_step_rounds_what_it_changes_and_all_is_rounded_only_after_the_host() {
    let Some(device) = shared_gpu() else { return };
    let cuda = device.cuda().unwrap();
    let adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: Decay::Decoupled };
    let (_, n, trained) = uneven_ranges(1);
    let mut weights = Weights::new(draw(1, n));
    let (mut m, mut v) = (Flat::zeros(trained), Flat::zeros(trained));
    let mut gradients = Gradients::new(trained);
    let mut step = |weights: &mut Weights, step| {
        gradients.values_mut().copy_from_slice(&draw(1 + step, trained));
        adam.step(device, weights, &mut gradients, &mut m, &mut v, &uneven_ranges(step).0, 0.7);
    };
    let all = View { offset: 0, rows: 1, cols: n, grad: None };
    let copy = |weights: &Weights| {
        let mut found = vec![half::bf16::ZERO; n];
        cuda.download(&mut found, weights.device_bf16(cuda, all));
        found
    };
    let rounded = |weights: &Weights| weights.values().iter().map(|&x| round_bf16(x)).collect::<Vec<_>>();
    step(&mut weights, 1); // while there is no copy
    assert!(copy(&weights) == rounded(&weights));
    // The first weight is frozen: a mark in its place stays until all weights are rounded again.
    let mark = half::bf16::from_f32(77.0);
    let marked = |weights: &Weights| {
        let mut expected = rounded(weights);
        expected[0] = mark;
        expected
    };
    cuda.write(weights.device_bf16(cuda, all), &[mark]);
    for t in 2..=3 {
        let before = copy(&weights);
        step(&mut weights, t);
        assert!(copy(&weights) == marked(&weights) && copy(&weights) != before, "step {t}");
    }
    weights.values_mut()[n - 1] += 1.0;
    assert!(copy(&weights) == rounded(&weights), "after the host changed a weight");
    // A copy that a step finds out of date stays so.
    cuda.write(weights.device_bf16(cuda, all), &[mark]);
    weights.values_mut()[n - 1] += 1.0;
    step(&mut weights, 4);
    assert!(copy(&weights) == rounded(&weights), "after the host, then a step");
    device.check().unwrap();
}

/// A parameter's padded copy: what a matrix of ones on its diagonal times it is.
fn padded_copy(device: &Device, weights: &Weights, view: View) -> Vec<f32> {
    let cuda = device.cuda().unwrap();
    let [rows, cols] = [view.rows, view.cols].map(padded);
    let diagonal: Vec<f32> = (0..rows * rows).map(|i| if i / rows == i % rows { 1.0 } else { 0.0 }).collect();
    let diagonal =
        copy(cuda, device.pool(), &Tensor::from_f32(device.pool(), rows, rows, &diagonal), DType::Bf16);
    let out = Tensor::zeros(device.pool(), rows, cols, DType::F32);
    cuda.matmul(diagonal.matrix(), weights.device_padded(cuda, view), out.matrix(), Write::Replace);
    out.to_f32_vec()
}

#[test]
fn padded_copies_follow_the_values_and_end_in_zeros() {
    let Some(device) = shared_gpu() else { return };
    let adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: Decay::Decoupled };
    let n = 3 + 5 * 7 + 4 * 9;
    let mut weights = Weights::new(draw(1, n));
    let (mut m, mut v, mut gradients) = (Flat::zeros(n), Flat::zeros(n), Gradients::new(n));
    // One that trains and begins at an odd place, one that does not.
    let views = [
        View { offset: 3, rows: 5, cols: 7, grad: Some(3) },
        View { offset: 3 + 5 * 7, rows: 4, cols: 9, grad: None },
    ];
    let check = |weights: &Weights, what: &str| {
        for view in views {
            let [rows, cols] = [view.rows, view.cols].map(padded);
            let mut expected = vec![0.0; rows * cols];
            for (to, from) in expected.chunks_mut(cols).zip(weights.get(view).chunks(view.cols)) {
                for (to, &from) in to.iter_mut().zip(from) {
                    *to = round_bf16(from).to_f32();
                }
            }
            assert_eq!(padded_copy(device, weights, view), expected, "{what}: {view:?}");
        }
    };
    let mut step = |weights: &mut Weights, step| {
        gradients.values_mut().copy_from_slice(&draw(1 + step, n));
        let rates = Range { lr: 0.1, weight_decay: 0.0, step, start: 3, grad: 3, moment: 3, len: 5 * 7 };
        adam.step(device, weights, &mut gradients, &mut m, &mut v, &[rates], 0.7);
    };
    step(&mut weights, 1);
    check(&weights, "made after a step");
    step(&mut weights, 2);
    check(&weights, "a step later");
    weights.values_mut()[4] += 1.0;
    check(&weights, "after the host changed a weight");
    weights.values_mut()[n - 1] += 1.0;
    step(&mut weights, 3);
    check(&weights, "after the host, then a step");
    device.check().unwrap();
}

#[test]
fn a_full_device_says_so_once_and_goes_on() {
    let Some(device) = gpu() else { return };
    let cuda = device.cuda().unwrap();
    let kept = Tensor::from_f32(device.pool(), 1, 3, &[1.0, 2.0, 3.0]);
    let much = Tensor::zeros(device.pool(), 1 << 24, 1 << 20, DType::F32);
    // Everything after it does nothing.
    cuda.launch(
        OPTIMIZER,
        "sum_of_squares",
        [1, 1, 1],
        256,
        0,
        &[kept.device_ptr().into(), much.device_ptr().into(), 3_u64.into(), 3_i32.into()],
    );
    assert!(much.rows() > 0 && cuda.is_broken());
    let error = device.check().unwrap_err();
    assert!(matches!(error, EngineError::OutOfMemory { wanted, .. } if wanted >= 1 << 46), "{error}");
    assert!(error.to_string().contains("fix: "), "{error}");
    device.check().unwrap();
    assert_eq!(kept.to_f32_vec(), [1.0, 2.0, 3.0]);
    let mut gradients = Gradients::new(3);
    gradients.values_mut().copy_from_slice(&[1.0, 2.0, 2.0]);
    assert!((squared_norm(&device, &gradients).wait() - 9.0).abs() < 1e-12);
    gradients.clear();
    assert!(squared_norm(&device, &gradients).wait().abs() < 1e-12);
}

#[test]
#[should_panic(expected = "has the parameters")]
fn wrong_arguments_never_reach_a_kernel() {
    let device = gpu().unwrap_or_else(|| panic!("has the parameters, if there were a GPU"));
    let pointer = device.cuda().unwrap().upload(&[0_u64; 8]).ptr();
    let arguments = [pointer.into(), pointer.into(), 3_u64.into(), 3_u32.into()];
    device.cuda().unwrap().launch(OPTIMIZER, "sum_of_squares", [1, 1, 1], 256, 0, &arguments);
}

#[test]
fn compiled_kernels_are_kept_and_damaged_ones_made_again() {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    if gpu().is_none() {
        return;
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("headstart-kernels-{}-{number}", std::process::id()));
    let paths = CudaOptions { kernel_cache: Some(folder.clone()), ..CudaOptions::default() };
    let sum = || {
        let device = Device::gpu(0, None, &paths).unwrap();
        let mut gradients = Gradients::new(2);
        gradients.values_mut().copy_from_slice(&[3.0, 4.0]);
        let sum = squared_norm(&device, &gradients).wait();
        device.check().unwrap();
        sum
    };
    assert!((sum() - 25.0).abs() < 1e-12);
    let files = || std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    let made = files();
    assert_eq!(made.len(), 1);
    std::fs::write(&made[0], b"HSCUBIN1 and nothing good").unwrap();
    assert!((sum() - 25.0).abs() < 1e-12);
    assert!(std::fs::read(&made[0]).unwrap().len() > 100);
    assert_eq!(files(), made);
    std::fs::remove_dir_all(folder).unwrap();
}
