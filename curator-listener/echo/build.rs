//! Compiles the `.proto` file, without a `protoc`.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    // The annotations say who may call a method where the service is embedded in a Curator.
    const ANNOTATIONS: &str = "../../curator-proto/proto";
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed={ANNOTATIONS}/metropolis/proto/ext/authorization.proto");
    let mut compiler = protox::Compiler::new(["proto", ANNOTATIONS])?;
    compiler.include_imports(true).open_files(["echo.proto"])?;
    let descriptors = compiler.file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
