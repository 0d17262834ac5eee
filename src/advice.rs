//! Which flags help against an error of a device: the engine speaks of devices and knows no flags.
//!
//! Owns: that advice. Never: the error's own words.

use headstart::error::EngineError;

/// The flags that an error's fix comes down to, where it is one of a device.
pub fn flags(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let engine = match error.downcast_ref::<headstart::Error>() {
        Some(headstart::Error::Engine(error)) => error,
        _ => error.downcast_ref::<EngineError>()?,
    };
    match engine {
        EngineError::Threads { .. } => Some("--threads N"),
        EngineError::Gpu { .. } => Some("--device cpu (`headstart doctor` lists the GPUs)"),
        EngineError::OutOfMemory { .. } => Some("--train_batch_size, --precision bf16, --device cuda:N"),
        EngineError::ModelTooLarge { .. } => Some("--device cuda:N, --device cpu"),
        EngineError::Cuda { .. } => Some("--device cpu (`headstart doctor` shows the GPU and its driver)"),
        EngineError::Rank { .. } | EngineError::Rendezvous { .. } | EngineError::Map { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_devices_have_flags_and_others_none() {
        let gpu = || EngineError::Gpu { what: "no GPU 7".into(), fix: "name one that is there" };
        for error in
            [anyhow::Error::new(headstart::Error::Engine(gpu())), anyhow::Error::new(gpu()).context("x")]
        {
            assert!(error.chain().find_map(flags).is_some_and(|flags| flags.contains("--device cpu")));
        }
        let other = headstart::Error::Missing { what: "no run".into(), fix: "name one".into() };
        assert_eq!(flags(&other), None);
    }
}
