//! Packs a model's folder at a byte a weight, as the one in the program is (docs/shipped-model.md):
//!
//!     cargo run --release -p headstart --example pack -- FOLDER OUTPUT

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, output] = &arguments[..] else {
        eprintln!("usage: pack FOLDER OUTPUT");
        return ExitCode::from(2);
    };
    match headstart::shipped::pack(Path::new(folder), Path::new(output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
