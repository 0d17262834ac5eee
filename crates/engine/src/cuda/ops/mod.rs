//! The ops on the device: each launches its kernels and products. Same equations as in `crate::ops`, same order of
//! operands; the mathematics is explained there.

pub(crate) mod adam;
