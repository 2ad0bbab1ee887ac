//! AF_XDP rings and UMEM: the room with the unsafe.
