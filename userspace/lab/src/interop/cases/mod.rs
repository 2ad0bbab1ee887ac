//! The cases, by what they are about.

mod algorithms;
mod analyser;
mod certificates;
mod children;
mod faults;
mod gates;
mod mobility;
mod rekeying;
mod tunnel;

use super::{
    run::Run,
    setup::{Role, Setup},
};
use anyhow::Result;

type Script = fn(&mut Run) -> Result<String>;
type Prepare = Box<dyn Fn(&mut Setup) + Send + Sync>;

/// Both of mitregate's parts.
pub const BOTH: &[Role] = &[Role::Initiator, Role::Responder];

/// With which releases of strongSwan a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peers {
    /// The first one that was named.
    First,
    /// Every one.
    Every,
    /// Those that know ML-KEM: from 6.1 on.
    From61,
}

/// One case.
pub struct Case {
    /// Unique.
    pub name: String,
    /// Those in which it runs.
    pub roles: &'static [Role],
    /// Among the project's tests.
    pub quick: bool,
    peers: Peers,
    /// What it changes of the usual set-up.
    pub setup: Prepare,
    /// What happens; on success what was counted.
    pub script: Script,
}

impl Case {
    fn new(
        name: impl Into<String>,
        setup: impl Fn(&mut Setup) + Send + Sync + 'static,
        script: Script,
    ) -> Self {
        Case {
            name: name.into(),
            roles: BOTH,
            quick: false,
            peers: Peers::First,
            setup: Box::new(setup),
            script,
        }
    }

    /// With every release.
    fn core(mut self) -> Self {
        self.peers = Peers::Every;
        self
    }

    /// With releases that know ML-KEM.
    fn since_61(mut self) -> Self {
        self.peers = Peers::From61;
        self
    }

    /// Also in `cargo xtask test`.
    fn quick(mut self) -> Self {
        self.quick = true;
        self
    }

    fn only(mut self, roles: &'static [Role]) -> Self {
        self.roles = roles;
        self
    }

    /// Whether it runs with a release, the `first` one named or not.
    pub fn runs_with(&self, release: &str, first: bool) -> bool {
        match self.peers {
            Peers::First => first,
            Peers::Every => true,
            Peers::From61 => !release.starts_with("5.") && !release.starts_with("6.0"),
        }
    }
}

/// All of them, in the order of the table.
pub fn all() -> Vec<Case> {
    let mut cases = tunnel::cases();
    cases.extend(algorithms::cases());
    cases.extend(certificates::cases());
    cases.extend(children::cases());
    cases.extend(rekeying::cases());
    cases.extend(gates::cases());
    cases.extend(mobility::cases());
    cases.extend(faults::cases());
    cases.extend(analyser::cases());
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_fit_a_folder() {
        let cases = all();
        let names: BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
        assert_eq!(names.len(), cases.len());
        for name in names {
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        }
    }

    #[test]
    fn some_are_quick() {
        let quick = all().iter().filter(|case| case.quick).count();
        assert!((2..=5).contains(&quick), "{quick}");
    }
}
