//! The sum of gradients over ranks, and updated weights back to all, between GPUs.
//!
//! Owns: what travels between device buffers, and the order in which it is added: that of the tree, by a kernel of our own.
//! Never: how bytes travel (`Nccl`), who owns what (`shares`).
//!
//! All is queued on the device's stream; nothing waits here. As `reduce`, piece by piece.

use super::Shares;
use super::shares::{UNIT, updated};
use crate::cuda::ops::parts::{self, Parts};
use crate::cuda::{Context, DevicePtr, Nccl};
use crate::ops::adam;
use crate::weights::{Gradients, Weights};

/// Units of each rank in a piece: 4 MiB, so that what is received of the others stays small beside the model.
const UNITS_OF_RANK: usize = 16;
const BYTES: usize = size_of::<f32>();

/// Leaves each rank with the sum of its own share.
pub(super) fn reduce(cuda: &Context, nccl: &Nccl, shares: &Shares, gradients: &mut Gradients) {
    let (rank, world_size) = (shares.rank(), shares.world_size());
    let values = gradients.flat_mut().device_mut(cuda);
    let stride = UNITS_OF_RANK * UNIT;
    // Of the other ranks in their order, without this one.
    let received = cuda.allocate((world_size - 1) * stride * BYTES);
    let slot = |from: usize| if from < rank { from } else { from - 1 };
    for piece in shares.pieces(UNITS_OF_RANK).rev() {
        let own: Vec<usize> = piece.clone().filter(|&unit| shares.owner(unit) == rank).collect();
        let (mut sends, mut receives) = (Vec::new(), Vec::new());
        for unit in piece.filter(|&unit| shares.owner(unit) != rank) {
            let elements = shares.unit(unit);
            sends.push((shares.owner(unit), values.offset(elements.start * BYTES), elements.len() * BYTES));
        }
        for from in (0..world_size).filter(|&from| from != rank) {
            for (i, &unit) in own.iter().enumerate() {
                let at = received.ptr().offset((slot(from) * stride + i * UNIT) * BYTES);
                receives.push((from, at, shares.unit(unit).len() * BYTES));
            }
        }
        nccl.exchange(&sends, &receives);
        for (i, &unit) in own.iter().enumerate() {
            let elements = shares.unit(unit);
            let sum = values.offset(elements.start * BYTES);
            let others = received.ptr().offset(i * UNIT * BYTES);
            let all = Parts { own: sum, own_index: rank, others, stride, count: world_size };
            parts::fold(cuda, &all, sum, elements.len());
        }
    }
}

/// Gives every rank the weights that the others have just updated.
pub(super) fn gather_weights(
    cuda: &Context,
    nccl: &Nccl,
    shares: &Shares,
    weights: &mut Weights,
    ranges: &[adam::Range],
) {
    let (rank, world_size) = (shares.rank(), shares.world_size());
    // The copy in bf16 is made again: it lacks what the others send.
    let values = weights.device_changed(cuda);
    let at = |range: &adam::Range| -> (DevicePtr, usize) {
        (values.offset(range.start * BYTES), range.len * BYTES)
    };
    for piece in shares.pieces(UNITS_OF_RANK) {
        let (mut sends, mut receives) = (Vec::new(), Vec::new());
        for unit in piece {
            let owner = shares.owner(unit);
            for part in updated(ranges, shares.unit(unit)) {
                let (start, bytes) = at(&part);
                if owner == rank {
                    sends.extend((0..world_size).filter(|&to| to != rank).map(|to| (to, start, bytes)));
                } else {
                    receives.push((owner, start, bytes));
                }
            }
        }
        nccl.exchange(&sends, &receives);
    }
}
