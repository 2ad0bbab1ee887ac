//! How long a tunnel was a black hole, as far as its pings tell, and what ended that.

use core::fmt;
use core::time::Duration;

/// What brought a tunnel back whose pings were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Another ping on the same pair of SAs was answered.
    RePing,
    /// A rekey gave fresh SPIs, and they were proven.
    Rekey,
    /// A new IKE SA gave an epoch that was proven.
    NewIke,
    /// The other encapsulation was proven.
    Encap,
}

impl Recovery {
    /// The word in lists, logs and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RePing => "re-ping",
            Self::Rekey => "rekey",
            Self::NewIke => "new-ike",
            Self::Encap => "encap",
        }
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Recoveries by kind, see [`Recovery`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Recoveries {
    pub re_ping: u64,
    pub rekey: u64,
    pub new_ike: u64,
    pub encap: u64,
}

impl Recoveries {
    pub(crate) fn count(&mut self, kind: Recovery) {
        *match kind {
            Recovery::RePing => &mut self.re_ping,
            Recovery::Rekey => &mut self.rekey,
            Recovery::NewIke => &mut self.new_ike,
            Recovery::Encap => &mut self.encap,
        } += 1;
    }
}

/// The black hole of one tunnel: from the first sign that turned out to be one (data that nothing
/// answered, or a ping that was lost) until something is proven.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outage {
    /// It began then if the ping that is under way is lost.
    suspected: Option<Duration>,
    since: Option<Duration>,
    /// The encapsulation was changed meanwhile.
    encap_changed: bool,
    past: Duration,
}

impl Outage {
    /// A series of pings begins; `at`: the first sign that called for it.
    pub(crate) fn suspect(&mut self, at: Duration) {
        self.suspected.get_or_insert(at);
    }

    /// A ping of that series was lost.
    pub(crate) fn lost(&mut self) {
        self.since = self.since.or(self.suspected);
    }

    /// The encapsulation changes.
    pub(crate) fn encap_changed(&mut self) {
        self.encap_changed = self.since.is_some();
    }

    /// Whether a change of encapsulation may have ended it.
    pub(crate) fn changed_encap(&self) -> bool {
        self.encap_changed
    }

    /// The path was proven; how long it had not been, if any ping was lost.
    pub(crate) fn over(&mut self, now: Duration) -> Option<Duration> {
        self.suspected = None;
        self.encap_changed = false;
        let length = now.saturating_sub(self.since.take()?);
        self.past += length;
        Some(length)
    }

    /// All black holes together, the present one included.
    pub(crate) fn total(&self, now: Duration) -> Duration {
        let present = self.since.map(|since| now.saturating_sub(since));
        self.past + present.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn counts_from_the_first_sign_to_the_proof() {
        let mut outage = Outage::default();
        outage.suspect(s(10));
        assert_eq!(outage.over(s(11)), None, "answered at once");
        outage.suspect(s(20));
        outage.lost();
        outage.suspect(s(22));
        outage.lost();
        assert_eq!(outage.total(s(23)), s(3));
        assert_eq!(outage.over(s(25)), Some(s(5)));
        assert_eq!(outage.total(s(60)), s(5));
        outage.encap_changed();
        assert!(!outage.changed_encap(), "there was nothing to end");
        outage.suspect(s(70));
        outage.lost();
        outage.encap_changed();
        assert!(outage.changed_encap());
        assert_eq!(outage.over(s(71)), Some(s(1)));
        assert!(!outage.changed_encap());
    }
}
