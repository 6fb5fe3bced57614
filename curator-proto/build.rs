//! Compiles the `.proto` files, without a `protoc`.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

const FILES: [&str; 8] = [
    "curator/admin/v1/admin.proto",
    "curator/storage/v1/storage.proto",
    "metropolis/node/core/curator/proto/api/api.proto",
    "metropolis/node/core/curator/proto/private/lock.proto",
    "metropolis/node/core/curator/proto/private/storage.proto",
    "metropolis/proto/api/aaa.proto",
    "metropolis/proto/api/management.proto",
    "metropolis/proto/ext/authorization.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(FILES)?;
    let descriptors = compiler.file_descriptor_set();

    // Encoded by protox itself: a decoded `FileDescriptorSet` has lost the annotations that say who may call a method.
    compiler.include_source_info(false);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    // The well-known types come from `prost-types`.
    let mut config = prost_build::Config::new();
    // By its name a message finds its descriptor.
    config.enable_type_names();
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    Ok(())
}
