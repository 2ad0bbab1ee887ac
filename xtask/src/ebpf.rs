//! The eBPF objects: which toolchain builds them, and how.
//!
//! The target `bpfel-unknown-none` has no prebuilt `core`, so the library's source is needed, and
//! unstable cargo features with it. Debian's rustc for its browsers brings the source along, without
//! rustup having to reach its server; elsewhere a pinned nightly does. What both emit is LLVM
//! bitcode, which `bpf-linker` hands to a libLLVM that it finds at run time.

use std::{
    env, fs,
    io::ErrorKind,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{setup::Package, sh};

/// The release that works with [`LLVM`] and finds it at run time.
pub const BPF_LINKER: &str = "0.10.3";
/// Without its own LLVM that bpf-linker drives exactly this major version.
const LLVM: &str = "22";
/// The last nightlies on [`LLVM`]; aya-ebpf wants 1.95 or newer.
const NIGHTLY: &str = "nightly-2026-05-19";

const TARGET: &str = "bpfel-unknown-none";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN: &[Package] = &[
    ("rustc-web", "compiles the eBPF program"),
    ("cargo-web", "builds the eBPF program"),
    ("rust-web-src", "the source of `core`, for the eBPF target"),
];

/// The toolchain that builds for `bpfel-unknown-none`.
pub struct Toolchain {
    compiler: Compiler,
    /// As `rustc --version` says it.
    version: String,
    /// The shared library that bpf-linker is to load.
    llvm: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compiler {
    Debian,
    Nightly,
}

impl Toolchain {
    /// Which, and why.
    pub fn describe(&self) -> String {
        let why = match self.compiler {
            Compiler::Debian => "Debian's rustc-web, with the source of core",
            Compiler::Nightly => "rustup's pinned nightly with rust-src (no rustc-web here)",
        };
        format!(
            "{}: {why}; bpf-linker drives {}",
            self.version,
            self.llvm.display()
        )
    }

    fn cargo(&self) -> Command {
        self.compiler.command(DEBIAN_CARGO, "cargo")
    }
}

impl Compiler {
    fn command(self, debian: &str, rustup: &str) -> Command {
        match self {
            Self::Debian => Command::new(debian),
            Self::Nightly => {
                let mut command = Command::new("rustup");
                // rustup would add one to every error.
                command.env("RUST_BACKTRACE", "0");
                command.args(["run", NIGHTLY, rustup]);
                command
            }
        }
    }

    fn rustc(self, args: &[&str]) -> Result<String> {
        sh::output(self.command(DEBIAN_RUSTC, "rustc").args(args))
    }

    /// This compiler as a whole, or what it lacks.
    fn inspect(self) -> Result<Toolchain> {
        let verbose = self.rustc(&["--version", "--verbose"])?;
        let llvm = verbose
            .lines()
            .find_map(|line| line.strip_prefix("LLVM version: "));
        let major = llvm
            .and_then(|version| version.split('.').next())
            .unwrap_or("no");
        if major != LLVM {
            bail!("it has LLVM {major}, and bpf-linker {BPF_LINKER} needs {LLVM}");
        }
        let sysroot = PathBuf::from(self.rustc(&["--print", "sysroot"])?.trim());
        let source = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
        if !source.is_file() {
            bail!("the source of core is not there: {}", source.display());
        }
        if self == Self::Debian && !Path::new(DEBIAN_CARGO).is_file() {
            bail!("{DEBIAN_CARGO} is not there");
        }
        Ok(Toolchain {
            compiler: self,
            version: verbose.lines().next().unwrap_or_default().to_owned(),
            llvm: find_llvm(&sysroot)?,
        })
    }
}

/// Looks only; installs nothing.
pub fn choose() -> Result<Toolchain> {
    let debian = match Compiler::Debian.inspect() {
        Ok(toolchain) => return Ok(toolchain),
        Err(error) => error,
    };
    Compiler::Nightly.inspect().map_err(|nightly| {
        anyhow!(
            "nothing here builds for {TARGET}: Debian's rustc-web: {debian:#}; {NIGHTLY}: {nightly:#}"
        )
    })
}

/// What the chosen path needs by apt.
pub fn packages() -> &'static [Package] {
    if Compiler::Debian.inspect().is_ok() {
        return DEBIAN;
    }
    // Not where the nightly is there already, nor where apt has no such package.
    let wanted = Compiler::Nightly.inspect().is_err() && apt_offers(DEBIAN[0].0);
    if wanted { DEBIAN } else { &[] }
}

fn apt_offers(package: &str) -> bool {
    let policy = || sh::output(Command::new("apt-cache").args(["policy", package]));
    let Ok(mut known) = policy() else {
        return false;
    };
    // A fresh container has no package lists at all.
    if known.is_empty() && sh::is_root() {
        let update = sh::run(Command::new("apt-get").args(["update", "-qq"]));
        known = update.and_then(|()| policy()).unwrap_or_default();
    }
    known
        .lines()
        .any(|line| line.contains("Candidate:") && !line.contains("(none)"))
}

/// After apt: what the chosen path needs by rustup.
pub fn prepare() -> Result<()> {
    let Err(lacking) = choose() else {
        return Ok(());
    };
    sh::step(&format!(
        "installing {NIGHTLY} with rust-src by rustup: {lacking:#}"
    ));
    let install = [
        "toolchain",
        "install",
        NIGHTLY,
        "--profile",
        "minimal",
        "--component",
        "rust-src",
    ];
    sh::run(Command::new("rustup").args(install))
        .context("no toolchain for the eBPF program could be installed")?;
    choose().map(drop)
}

/// Both objects, into `<target dir>/ebpf/`: `classifier.o`, which logs rare events by aya-log, and
/// `classifier-nolog.o`, which libbpf can load as well. Untouched where nothing changed.
pub fn build() -> Result<()> {
    let toolchain = choose().context("run `cargo xtask setup`")?;
    let linker = find_linker()?;
    let out = sh::target_dir().join("ebpf");
    let build = sh::target_dir().join("ebpf-build");
    let llvm = build.join("llvm");
    only_library_in(&llvm, &toolchain.llvm)?;
    let flags = format!(
        "-C linker={} -C link-arg=--btf -C debuginfo=2",
        linker.display()
    );
    for (name, features) in [("classifier.o", "log"), ("classifier-nolog.o", "")] {
        let mut cargo = toolchain.cargo();
        // What the cargo that runs us has set is meant for the host's toolchain.
        for name in [
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTDOC",
        ] {
            cargo.env_remove(name);
        }
        if toolchain.compiler == Compiler::Debian {
            cargo.env("RUSTC", DEBIAN_RUSTC);
        }
        cargo
            .current_dir(sh::root().join("ebpf/classifier"))
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", &flags)
            .env("LD_LIBRARY_PATH", &llvm)
            .args([
                "build",
                "--release",
                "--locked",
                "--quiet",
                "-Z",
                "build-std=core",
            ])
            .args(["--target", TARGET, "--features", features])
            .arg("--target-dir")
            .arg(&build);
        sh::run(&mut cargo)
            .with_context(|| format!("building {name} with {}", toolchain.version))?;
        install(
            &build.join(TARGET).join("release/classifier"),
            &out.join(name),
        )?;
    }
    Ok(())
}

/// A libLLVM of the right version: rustup's sysroots hold one each, Debian's rustc links another.
fn find_llvm(sysroot: &Path) -> Result<PathBuf> {
    let mut folders = vec![sysroot.join("lib")];
    if let Ok(active) = sh::output(Command::new("rustc").args(["--print", "sysroot"])) {
        folders.push(Path::new(active.trim()).join("lib"));
    }
    folders.extend(
        [
            "/usr/lib/x86_64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
            "/usr/lib64",
        ]
        .map(PathBuf::from),
    );
    let wanted = format!("libLLVM.so.{LLVM}.");
    let libraries = folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten();
    libraries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&wanted))
        })
        .ok_or_else(|| anyhow!("no libLLVM.so.{LLVM} in any of {folders:?}"))
}

/// bpf-linker takes the first file named libLLVM* in LD_LIBRARY_PATH, whatever its version: give
/// it a folder where there is no other.
fn only_library_in(folder: &Path, library: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let link = folder.join("libLLVM.so");
    if fs::read_link(&link).is_ok_and(|target| target == library) {
        return Ok(());
    }
    match fs::remove_file(&link) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    symlink(library, &link).with_context(|| format!("cannot link {}", link.display()))
}

/// cargo installs into a folder that root's PATH need not have.
fn find_linker() -> Result<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")));
    let installed = home
        .map(|home| home.join("bin/bpf-linker"))
        .filter(|path| path.is_file());
    installed
        .or_else(|| sh::find("bpf-linker"))
        .context("bpf-linker is not installed: run `cargo xtask setup`")
}

/// A copy that keeps its time when nothing changed, so that what embeds it is not built again.
fn install(from: &Path, to: &Path) -> Result<()> {
    let object = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == object) {
        return Ok(());
    }
    let copy = || {
        fs::create_dir_all(to.parent().unwrap_or(Path::new(".")))?;
        let part = to.with_extension("part");
        fs::write(&part, &object)?;
        fs::rename(&part, to)
    };
    copy().with_context(|| format!("cannot write {}", to.display()))
}
