//! Who is lost, and why.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use crate::error::EngineError;

/// The watch of a rank over the others.
#[derive(Debug)]
pub struct Watch {
    _lines: Vec<(usize, TcpStream)>,
}

impl Watch {
    pub fn start(_: usize, lines: Vec<(usize, TcpStream)>, _: Duration) -> io::Result<Self> {
        Ok(Self { _lines: lines })
    }

    pub fn check(&self) -> Result<(), EngineError> {
        Ok(())
    }

    pub fn broken(&self, rank: usize, error: &io::Error) -> EngineError {
        EngineError::Rank {
            rank,
            what: format!("is gone: {error}"),
            fix: "see what that rank wrote".to_owned(),
        }
    }
}
