//! Headstart's engine.
pub mod error;
pub mod file_map;

pub use error::EngineError;
pub use file_map::FileMap;
