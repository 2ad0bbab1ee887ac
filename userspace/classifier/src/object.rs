//! The eBPF objects that the build has embedded.

use crate::Error;

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/objects.rs"));
}

/// The object that logs rare events by aya-log, for aya.
pub fn logging() -> Result<&'static [u8], Error> {
    embedded::LOGGING.ok_or(Error::NoObject)
}

/// The object without aya-log, whose maps all have BTF definitions: for any loader.
pub fn plain() -> Result<&'static [u8], Error> {
    embedded::PLAIN.ok_or(Error::NoObject)
}
