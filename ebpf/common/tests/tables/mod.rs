use std::{cell::RefCell, collections::BTreeSet};

use mitregate_ebpf_common::{AddressKey, FragmentKey, Tables};

/// The maps, on the host.
pub struct HostTables {
    ours: BTreeSet<AddressKey>,
    fragments: RefCell<BTreeSet<FragmentKey>>,
}

impl HostTables {
    pub fn new(ours: impl IntoIterator<Item = AddressKey>) -> Self {
        Self {
            ours: ours.into_iter().collect(),
            fragments: RefCell::default(),
        }
    }
}

impl Tables for HostTables {
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
