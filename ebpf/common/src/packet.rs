/// Read access to one frame, in a form that the kernel's verifier can follow: every read is one
/// comparison with the end of the frame, then constant offsets.
pub trait Packet {
    /// Bytes in the frame.
    fn len(&self) -> usize;

    /// The `N` bytes at `at`, `None` when they are not all inside the frame. `N` is at least 2: the
    /// compiler turns the check for a single byte into a form that the verifier does not follow.
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    /// Whether the frame is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Packet for [u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.get(at..)?.first_chunk().copied()
    }
}
