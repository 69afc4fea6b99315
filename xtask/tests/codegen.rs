//! The client crate's `generated.rs` is what the protobuf file says. `NETPLANE_CODEGEN=1` writes it anew, which is what
//! `cargo xtask codegen` does: so no build needs protoc or a generator.

use std::path::Path;

const HEADER: &str =
    "//! Made from `proto/netplane/v1/sessions.proto` by `cargo xtask codegen`: edit that.\n\n";

#[test]
fn generated_code_is_current() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let proto = top.join("proto");
    let descriptors =
        protox::compile(["netplane/v1/sessions.proto"], [&proto]).expect("a sound protobuf file");
    let out = tempfile::tempdir().expect("a folder");
    tonic_prost_build::configure()
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .out_dir(out.path())
        .compile_fds(descriptors)
        .expect("generated");
    let made = std::fs::read_to_string(out.path().join("netplane.v1.rs")).expect("one package");
    let made = format!("{HEADER}{made}");
    let kept = top.join("netplane-client/src/generated.rs");
    if std::env::var_os("NETPLANE_CODEGEN").is_some() {
        std::fs::write(&kept, &made).expect("written");
    }
    let kept = std::fs::read_to_string(&kept).unwrap_or_default();
    assert!(kept == made, "src/generated.rs is not made from the protobuf file: run `cargo xtask codegen`");
}
