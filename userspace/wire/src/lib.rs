//! Bytes to typed views and back: Ethernet, IP, UDP, ICMP, ESP, ESP Echo, IKEv2.
