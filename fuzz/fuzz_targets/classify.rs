//! The XDP classifier on sequences of frames: it never panics, takes nothing from the kernel that
//! is not for us, and what follows the packet in the frame changes nothing.
#![no_main]

use std::{cell::RefCell, collections::HashSet};

use libfuzzer_sys::fuzz_target;
use mitregate_ebpf_common::{
    AddressKey, FragmentKey, Role, Tables, Verdict, classify, fixtures::our_keys,
};

#[derive(Clone, Default)]
struct Maps {
    ours: Vec<AddressKey>,
    fragments: RefCell<HashSet<FragmentKey>>,
}

impl Tables for Maps {
    fn is_ours(&self, address: &AddressKey) -> bool {
        self.ours.contains(address)
    }

    fn remember(&self, key: &FragmentKey) {
        self.fragments.borrow_mut().insert(*key);
    }

    fn forget(&self, key: &FragmentKey) {
        self.fragments.borrow_mut().remove(key);
    }

    fn remembers(&self, key: &FragmentKey) -> bool {
        self.fragments.borrow().contains(key)
    }
}

fuzz_target!(|bytes: &[u8]| {
    let maps = Maps {
        ours: our_keys().to_vec(),
        ..Maps::default()
    };
    let strangers = Maps::default();
    let mut rest = bytes;
    // One byte of length before each frame.
    while let Some((&len, tail)) = rest.split_first() {
        let (frame, tail) = tail.split_at(usize::from(len).min(tail.len()));
        rest = tail;

        let before = maps.clone();
        let verdict = classify(Role::Outer, frame, &maps);
        assert!(!classify(Role::Outer, frame, &strangers).redirects());
        assert_eq!(classify(Role::Inner, frame, &maps), Verdict::Inner);
        if verdict.redirects() {
            let padded = [frame, &[0xff; 46]].concat();
            assert_eq!(classify(Role::Outer, padded.as_slice(), &before), verdict);
        }
    }
});
