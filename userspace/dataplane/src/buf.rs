//! Buffers that carry control packets between the worker and the control thread.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

/// Bytes that one [`ControlBuf`] can hold: a whole Ethernet frame of a 2 KiB chunk.
pub const CONTROL_BUF_SIZE: usize = 2048;

struct Store {
    len: usize,
    bytes: [u8; CONTROL_BUF_SIZE],
}

type Home = ArrayQueue<Box<Store>>;

/// A packet on its way to or from the control plane.
///
/// Dropping it, on either side, puts its memory back where it came from: the worker never
/// allocates or frees one.
pub struct ControlBuf {
    store: Option<Box<Store>>,
    home: Arc<Home>,
}

impl ControlBuf {
    /// Replaces the content; `false`, and an empty buffer, if `bytes` is longer than
    /// [`CONTROL_BUF_SIZE`].
    #[must_use]
    pub fn set(&mut self, bytes: &[u8]) -> bool {
        let Some(store) = self.store.as_deref_mut() else {
            return false;
        };
        store.len = 0;
        let Some(room) = store.bytes.get_mut(..bytes.len()) else {
            return false;
        };
        room.copy_from_slice(bytes);
        store.len = bytes.len();
        true
    }

    /// The whole room, for writing; follow with [`ControlBuf::set_len`].
    pub fn room(&mut self) -> &mut [u8] {
        self.store
            .as_deref_mut()
            .map_or(&mut [], |store| &mut store.bytes)
    }

    /// Says how many bytes of the room are the packet; capped at the room's size.
    pub fn set_len(&mut self, len: usize) {
        if let Some(store) = self.store.as_deref_mut() {
            store.len = len.min(CONTROL_BUF_SIZE);
        }
    }
}

impl std::ops::Deref for ControlBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.store
            .as_deref()
            .map_or(&[], |store| &store.bytes[..store.len])
    }
}

impl std::fmt::Debug for ControlBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ControlBuf({} bytes)", self.len())
    }
}

impl Drop for ControlBuf {
    fn drop(&mut self) {
        if let Some(store) = self.store.take() {
            // The ring has a place for each of its buffers, so this push cannot fail.
            let _ = self.home.push(store);
        }
    }
}

/// A fixed set of [`ControlBuf`]s, shared by the two threads.
#[derive(Clone)]
pub struct ControlBufs {
    home: Arc<Home>,
}

impl ControlBufs {
    /// Allocates `count` buffers (at least one).
    pub fn new(count: usize) -> Self {
        let home = Arc::new(ArrayQueue::new(count.max(1)));
        while !home.is_full() {
            let _ = home.push(Box::new(Store {
                len: 0,
                bytes: [0; CONTROL_BUF_SIZE],
            }));
        }
        Self { home }
    }

    /// An empty buffer, or `None` while all are in use.
    pub fn take(&self) -> Option<ControlBuf> {
        let mut store = self.home.pop()?;
        store.len = 0;
        Some(ControlBuf {
            store: Some(store),
            home: Arc::clone(&self.home),
        })
    }

    /// Buffers that there are.
    pub fn count(&self) -> usize {
        self.home.capacity()
    }

    /// Buffers not in use.
    pub fn free(&self) -> usize {
        self.home.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_when_dropped() {
        let bufs = ControlBufs::new(2);
        let mut a = bufs.take().unwrap();
        let b = bufs.take().unwrap();
        assert!(bufs.take().is_none());
        assert_eq!((bufs.count(), bufs.free()), (2, 0));
        assert!(a.set(b"abc"));
        assert_eq!(&a[..], b"abc");
        assert!(!a.set(&[0; CONTROL_BUF_SIZE + 1]));
        drop((a, b));
        assert_eq!(bufs.free(), 2);
        assert!(bufs.take().unwrap().is_empty());
    }
}
