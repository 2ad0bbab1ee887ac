use crate::error::XskError;
use crate::frame::{Frame, Tripwire};
use core::ptr::NonNull;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Bytes that the kernel leaves free before a received packet (`XDP_PACKET_HEADROOM`), on top of
/// the headroom asked for.
const KERNEL_HEADROOM: u32 = 256;
const HUGE_PAGE: usize = 2 << 20;

/// Shape of a [`Umem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UmemConfig {
    /// Number of frames.
    pub frames: u32,
    /// Bytes per frame: 2048 or 4096 (AF_XDP's aligned mode: a power of two, at most a page).
    pub frame_size: u32,
    /// Bytes left free before a received packet, beyond the 256 that the kernel always leaves.
    pub headroom: u32,
    /// Try huge pages first. Without any, ordinary pages are taken, see [`Umem::pages`].
    pub huge_pages: bool,
}

impl Default for UmemConfig {
    /// 8192 frames of 2048 bytes: 16 MiB.
    fn default() -> Self {
        Self {
            frames: 8192,
            frame_size: 2048,
            headroom: 0,
            huge_pages: false,
        }
    }
}

/// What kind of pages a [`Umem`] lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// The machine's ordinary pages.
    Ordinary,
    /// Huge pages reserved by the administrator (`vm.nr_hugepages`).
    Huge,
    /// Ordinary memory that the kernel was asked to back by transparent huge pages.
    Transparent,
}

/// Who has a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Owner {
    /// Not handed out to any pool yet.
    Unissued = 0,
    /// Free, in a pool.
    Pool = 1,
    /// A [`Frame`] exists.
    Held = 2,
    /// Posted to a port to receive into: its fill ring, its driver, its RX ring.
    Receiving = 3,
    /// Given to a port to send: its TX ring, its driver, its completion ring.
    Sending = 4,
}

/// How many frames each kind of owner has, counted from the ledger. Exact while no worker runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Not yet given to any pool.
    pub unissued: u32,
    /// Free in a pool, control reserve included.
    pub pooled: u32,
    /// Alive as a [`Frame`]: in a batch, or held by the gate.
    pub held: u32,
    /// With a port, to receive into.
    pub receiving: u32,
    /// With a port, to be sent.
    pub sending: u32,
}

/// Packet memory, cut into chunks of one size.
///
/// Works without any socket; [`XskPort`](crate::XskPort) registers it with the kernel.
pub struct Umem {
    id: u32,
    memory: Mapping,
    chunk_shift: u8,
    frames: u32,
    kernel_headroom: u32,
    pages: Pages,
    ledger: Box<[AtomicU8]>,
    issued: AtomicU32,
    dropped: Arc<AtomicU64>,
}

impl Umem {
    /// Maps the memory, zeroed.
    pub fn new(config: UmemConfig) -> Result<Arc<Self>, XskError> {
        static NEXT_ID: AtomicU32 = AtomicU32::new(1);
        let UmemConfig {
            frames,
            frame_size,
            headroom,
            huge_pages,
        } = config;
        if frame_size != 2048 && frame_size != 4096 {
            return Err(XskError::FrameSize(frame_size));
        }
        if headroom >= frame_size - KERNEL_HEADROOM {
            return Err(XskError::Headroom {
                headroom,
                frame_size,
            });
        }
        if frames == 0 {
            return Err(XskError::NoFrames);
        }
        let bytes = frames as usize * frame_size as usize;
        let (memory, pages) = Mapping::anonymous(bytes, huge_pages)
            .map_err(|source| XskError::Memory { bytes, source })?;
        Ok(Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            memory,
            chunk_shift: if frame_size == 2048 { 11 } else { 12 },
            frames,
            kernel_headroom: headroom,
            pages,
            ledger: (0..frames)
                .map(|_| AtomicU8::new(Owner::Unissued as u8))
                .collect(),
            issued: AtomicU32::new(0),
            dropped: Arc::default(),
        }))
    }

    /// The packet. Empty for a frame of another `Umem`, which is a bug and fails in debug builds.
    #[inline]
    pub fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        let (offset, len) = self.locate(frame, frame.range().start, frame.len());
        // SAFETY: `locate` keeps the range in one chunk of this mapping, which lives as long as
        // `self`. The frame is the only token of its chunk, and it is borrowed for as long as the
        // slice, so nothing writes there meanwhile. Anonymous memory is initialised.
        unsafe { core::slice::from_raw_parts(self.memory.start.as_ptr().add(offset), len) }
    }

    /// The packet, to be changed. Empty for a frame of another `Umem`, as in [`bytes`](Self::bytes).
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "the exclusive borrow is the frame's")]
    pub fn bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        let (offset, len) = self.locate(frame, frame.range().start, frame.len());
        // SAFETY: as in `bytes`; the only token is borrowed exclusively, so no other slice of this
        // chunk exists.
        unsafe { core::slice::from_raw_parts_mut(self.memory.start.as_ptr().add(offset), len) }
    }

    /// The whole chunk with headroom and tailroom; the packet lies in it at [`Frame::range`].
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "the exclusive borrow is the frame's")]
    pub fn chunk_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        let (offset, len) = self.locate(frame, 0, self.frame_size());
        // SAFETY: as in `bytes_mut`.
        unsafe { core::slice::from_raw_parts_mut(self.memory.start.as_ptr().add(offset), len) }
    }

    /// Bytes per frame.
    pub fn frame_size(&self) -> usize {
        1 << self.chunk_shift
    }

    /// Number of frames.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Bytes free before a received packet, and before the packet of a fresh frame.
    pub fn headroom(&self) -> usize {
        (self.kernel_headroom + KERNEL_HEADROOM) as usize
    }

    /// The longest packet that can be received, in bytes: longer ones are dropped by the kernel.
    pub fn max_packet(&self) -> usize {
        self.frame_size() - self.headroom()
    }

    /// What kind of pages it lies in.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// Tells whether the frame belongs to this memory.
    pub fn owns(&self, frame: &Frame) -> bool {
        frame.umem == self.id
    }

    /// Counts the ledger: who has how many frames. Walks over all of it, so not for every batch.
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for owner in &self.ledger {
            *match owner.load(Ordering::Relaxed) {
                x if x == Owner::Unissued as u8 => &mut census.unissued,
                x if x == Owner::Pool as u8 => &mut census.pooled,
                x if x == Owner::Receiving as u8 => &mut census.receiving,
                x if x == Owner::Sending as u8 => &mut census.sending,
                _ => &mut census.held,
            } += 1;
        }
        census
    }

    /// How many [`Frame`]s were dropped instead of going back. Counted in debug builds only.
    pub fn dropped_frames(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes `count` chunks that no pool has had.
    pub(crate) fn issue(&self, count: u32) -> Result<core::ops::Range<u32>, XskError> {
        let first = self
            .issued
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |issued| {
                issued.checked_add(count).filter(|&end| end <= self.frames)
            })
            .map_err(|issued| XskError::FramesTaken {
                asked: count,
                left: self.frames - issued,
            })?;
        for chunk in first..first + count {
            self.ledger[chunk as usize].store(Owner::Pool as u8, Ordering::Relaxed);
        }
        Ok(first..first + count)
    }

    /// Makes the token of a chunk that `from` has. `None` if the range leaves the chunk, or if the
    /// ledger says that the chunk is not there: so one given back twice never makes two tokens.
    #[inline]
    pub(crate) fn claim(&self, chunk: u32, start: u64, len: u32, from: Owner) -> Option<Frame> {
        if start.checked_add(len.into())? > 1 << self.chunk_shift
            || !self.transfer(chunk, from, Owner::Held)
        {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a chunk has at most 4096 bytes"
        )]
        let range = (start as u16, len as u16);
        Some(Frame::new(
            self.id,
            chunk,
            range,
            self.chunk_shift,
            Tripwire::new(&self.dropped),
        ))
    }

    /// As `claim`, for a descriptor's address: bytes from the start of the memory.
    #[inline]
    pub(crate) fn claim_at(&self, address: u64, len: u32, from: Owner) -> Option<Frame> {
        let chunk = self.chunk_of(address)?;
        self.claim(chunk, address & ((1 << self.chunk_shift) - 1), len, from)
    }

    /// Turns the token into its chunk, which `to` now has. The frame must be of this memory.
    #[inline]
    pub(crate) fn surrender(&self, frame: Frame, to: Owner) -> u32 {
        debug_assert!(self.owns(&frame), "frame of another UMEM");
        let chunk = frame.into_chunk();
        if let Some(owner) = self.ledger.get(chunk as usize) {
            owner.store(to as u8, Ordering::Relaxed);
        }
        chunk
    }

    /// Moves a chunk between owners that need no token; false if `from` does not have it.
    #[inline]
    pub(crate) fn transfer(&self, chunk: u32, from: Owner, to: Owner) -> bool {
        // Relaxed is enough: a chunk changes threads only through a ring or a channel, and those
        // order what was written before.
        match self.ledger.get(chunk as usize) {
            Some(owner) if owner.load(Ordering::Relaxed) == from as u8 => {
                owner.store(to as u8, Ordering::Relaxed);
                true
            }
            _ => false,
        }
    }

    /// The chunk in which an address lies.
    #[inline]
    pub(crate) fn chunk_of(&self, address: u64) -> Option<u32> {
        u32::try_from(address >> self.chunk_shift)
            .ok()
            .filter(|&chunk| chunk < self.frames)
    }

    /// Address of the first byte of a chunk.
    #[inline]
    pub(crate) fn address_of(&self, chunk: u32) -> u64 {
        u64::from(chunk) << self.chunk_shift
    }

    /// What XDP_UMEM_REG wants to know.
    pub(crate) fn registration(&self) -> libc::xdp_umem_reg {
        libc::xdp_umem_reg {
            addr: self.memory.start.as_ptr() as u64,
            len: u64::from(self.frames) << self.chunk_shift,
            chunk_size: 1 << self.chunk_shift,
            headroom: self.kernel_headroom,
            flags: 0,
            tx_metadata_len: 0,
        }
    }

    /// Byte offset and length for a slice; (0, 0) for a foreign frame.
    #[inline]
    fn locate(&self, frame: &Frame, start: usize, len: usize) -> (usize, usize) {
        debug_assert!(self.owns(frame), "frame of another UMEM");
        if self.owns(frame) {
            (((frame.chunk as usize) << self.chunk_shift) + start, len)
        } else {
            (0, 0)
        }
    }
}

/// A mapped area, unmapped when dropped.
pub(crate) struct Mapping {
    pub(crate) start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is plain memory and not tied to a thread. Who may touch which part of it is the
// affair of those who make pointers into it: `Umem` through frames, rings through their indices.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` alone gives access to nothing.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn anonymous(bytes: usize, huge: bool) -> io::Result<(Self, Pages)> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        if huge {
            let rounded = bytes.next_multiple_of(HUGE_PAGE);
            if let Ok(mapping) = Self::map(rounded, flags | libc::MAP_HUGETLB, None) {
                return Ok((mapping, Pages::Huge));
            }
            // Advice must come before the pages do, so this mapping is not populated.
            let mapping = Self::map(rounded, flags & !libc::MAP_POPULATE, None)?;
            // SAFETY: the range is exactly the mapping just made; advice changes no content.
            let advised = unsafe {
                libc::madvise(
                    mapping.start.as_ptr().cast(),
                    mapping.len,
                    libc::MADV_HUGEPAGE,
                )
            };
            let pages = if advised == 0 {
                Pages::Transparent
            } else {
                Pages::Ordinary
            };
            return Ok((mapping, pages));
        }
        Ok((Self::map(bytes, flags, None)?, Pages::Ordinary))
    }

    /// Maps `len` bytes: anonymous memory, or a part of a socket's rings.
    pub(crate) fn map(
        len: usize,
        flags: libc::c_int,
        ring: Option<(libc::c_int, libc::off_t)>,
    ) -> io::Result<Self> {
        let (fd, offset) = ring.unwrap_or((-1, 0));
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: without MAP_FIXED the kernel chooses a free range, so no memory in use is
        // touched; every error comes back as MAP_FAILED.
        let start =
            unsafe { libc::mmap(core::ptr::null_mut(), len, protection, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast())
            .map(|start| Self { start, len })
            .ok_or_else(|| io::Error::other("mmap returned address 0"))
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the one mmap returned, and whoever made pointers into it (Umem,
        // rings) owns this mapping and is going with it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
