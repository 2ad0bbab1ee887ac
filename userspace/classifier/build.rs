//! Finds the eBPF objects that `cargo xtask build` has made, so that the library can embed them.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn main() {
    println!("cargo::rerun-if-env-changed=MITREGATE_EBPF_DIR");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let dir = match env::var_os("MITREGATE_EBPF_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => target_dir(&out).join("ebpf"),
    };
    // A folder that is watched must exist, or cargo runs this every time.
    let _ = fs::create_dir_all(&dir);
    println!("cargo::rerun-if-changed={}", dir.display());

    let mut code = String::new();
    for (name, file) in [("LOGGING", "classifier.o"), ("PLAIN", "classifier-nolog.o")] {
        let value = match dir.join(file).canonicalize() {
            Ok(path) => format!("Some(aya::include_bytes_aligned!({path:?}))"),
            Err(_) => "None".to_owned(),
        };
        code += &format!("pub const {name}: Option<&[u8]> = {value};\n");
    }
    fs::write(out.join("objects.rs"), code).expect("OUT_DIR is writable");
}

/// The target directory: cargo marks it, at some level above `OUT_DIR`.
fn target_dir(out: &Path) -> PathBuf {
    let marked = out
        .ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").is_file());
    let set = || env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    marked
        .map(Path::to_path_buf)
        .or_else(set)
        .unwrap_or_else(|| out.to_path_buf())
}
