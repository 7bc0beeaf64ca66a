//! Compiles everything in `proto/` with protox, so that no protoc is needed.
#![expect(
    clippy::disallowed_methods,
    reason = "cargo tells a build script where it is by environment variables"
)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto").canonicalize()?;
    println!("cargo:rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    collect(&root.join("phasegate"), &mut files)?;
    files.sort();

    let mut compiler = protox::Compiler::new([&root])?;
    // Comments become the texts of the OpenAPI document.
    compiler.include_source_info(true).include_imports(true);
    for file in &files {
        compiler.open_file(file)?;
    }
    // The encoding that keeps our own options, which prost's types would drop.
    let bytes = compiler.encode_file_descriptor_set();
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("descriptors.binpb"), &bytes)?;

    let descriptors = prost_types::FileDescriptorSet::decode(bytes.as_slice())?;
    tonic_prost_build::configure().include_file("packages.rs").btree_map(".").compile_fds(descriptors)?;
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
