/// Why the classifier is not attached, or could not be configured; each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The binary was built without the eBPF object.
    #[error("this binary was built without the eBPF object: run `cargo xtask build`")]
    NoObject,
}
