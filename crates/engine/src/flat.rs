//! `Flat`: many f32 values in one piece, on the host, on a GPU, or on both, wherever they were last asked for.
//!
//! Owns: which of the two copies is current. Never: what the values mean.
//!
//! Reading on the other side makes a copy there; writing on one side forgets the other. So checkpoints and whatever
//! else reads values on the host needs to know nothing about devices, and nothing is copied that nobody asked for.

use std::sync::OnceLock;

use crate::cuda::{Context, DeviceBuffer, DevicePtr};

/// See the module's header. At least one copy is there, and where both are they agree.
#[derive(Debug)]
pub struct Flat {
    len: usize,
    host: OnceLock<Vec<f32>>,
    device: OnceLock<DeviceBuffer>,
}

impl Flat {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self::from(vec![0.0; len])
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values on the host; waits for the device where only that has them.
    pub fn values(&self) -> &[f32] {
        self.host.get_or_init(|| {
            let mut values = vec![0.0; self.len];
            if let Some(buffer) = self.device.get() {
                buffer.context().download(&mut values, buffer.ptr());
            }
            values
        })
    }

    /// The values on the host, to be changed.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.values();
        self.device.take();
        match self.host.get_mut() {
            Some(values) => values,
            None => unreachable!("just made"),
        }
    }

    /// The values on the device.
    pub(crate) fn device(&self, cuda: &Context) -> DevicePtr {
        if let Some(buffer) = self.device.get() {
            return buffer.ptr();
        }
        let buffer = cuda.upload_lasting(self.values());
        if buffer.bytes() == 0 && self.len > 0 {
            return buffer.ptr(); // the device is full or broken; the host's copy stays the only one
        }
        self.device.get_or_init(|| buffer).ptr()
    }

    /// The values on the device, to be changed.
    pub(crate) fn device_mut(&mut self, cuda: &Context) -> DevicePtr {
        let at = self.device(cuda);
        if self.device.get().is_some() {
            self.host.take();
        }
        at
    }

    /// Zeros, wherever the values are.
    pub(crate) fn clear(&mut self) {
        if let Some(buffer) = self.device.get() {
            buffer.context().zero(buffer.ptr(), self.len * size_of::<f32>());
            self.host.take();
        } else if let Some(values) = self.host.get_mut() {
            values.fill(0.0);
        }
    }
}

impl From<Vec<f32>> for Flat {
    fn from(values: Vec<f32>) -> Self {
        Self { len: values.len(), host: OnceLock::from(values), device: OnceLock::new() }
    }
}

impl Clone for Flat {
    fn clone(&self) -> Self {
        Self::from(self.values().to_vec())
    }
}
