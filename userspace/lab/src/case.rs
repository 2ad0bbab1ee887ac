//! The failure cases that the gate is for, F1–F12: one table for the simulator, the live report and docs.

use std::fmt;

/// A failure case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Case {
    /// Two clients start an epoch with one server at the same time.
    Collision,
    /// A packet of the server for one client arrives while another one's entry is pending.
    Misbinding,
    /// The server sends on a new SPI before the client has.
    Race,
    /// The server rekeys while the client is idle.
    ServerRekeyIdle,
    /// The NAT loses all its tables.
    NatCrash,
    /// A mapping expires while nothing is sent.
    Expiry,
    /// A dead server with many clients.
    Squelch,
    /// Two clients have chosen the same inbound SPI.
    SameSpi,
    /// The NAT's public address or port changes.
    Remap,
    /// The server's process restarts.
    ServerRestart,
    /// The client's process restarts.
    ClientRestart,
    /// Packets are lost in one direction only.
    OneWayLoss,
}

impl Case {
    /// All, F1 first.
    pub const ALL: [Self; 12] = [
        Self::Collision,
        Self::Misbinding,
        Self::Race,
        Self::ServerRekeyIdle,
        Self::NatCrash,
        Self::Expiry,
        Self::Squelch,
        Self::SameSpi,
        Self::Remap,
        Self::ServerRestart,
        Self::ClientRestart,
        Self::OneWayLoss,
    ];

    /// 1 for F1.
    #[must_use]
    pub const fn number(self) -> usize {
        self as usize + 1
    }

    /// On command lines and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Collision => "f1-collision",
            Self::Misbinding => "f2-misbinding",
            Self::Race => "f3-race",
            Self::ServerRekeyIdle => "f4-server-rekey-idle",
            Self::NatCrash => "f5-nat-crash",
            Self::Expiry => "f6-expiry",
            Self::Squelch => "f7-squelch",
            Self::SameSpi => "f8-same-spi",
            Self::Remap => "f9-remap",
            Self::ServerRestart => "f10-server-restart",
            Self::ClientRestart => "f11-client-restart",
            Self::OneWayLoss => "f12-one-way-loss",
        }
    }

    /// What happens, in one line.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::Collision => "clients start an epoch with one server at the same time",
            Self::Misbinding => {
                "the server's packet for one client arrives while another one is pending at the NAT"
            }
            Self::Race => "the server has a new SPI to send to, and the client has not sent yet",
            Self::ServerRekeyIdle => "the server rekeys while the client only receives",
            Self::NatCrash => "the NAT loses all its tables",
            Self::Expiry => "nothing is sent for longer than the NAT remembers",
            Self::Squelch => "the server is dead while many clients ask for it",
            Self::SameSpi => "two clients have chosen the same inbound SPI",
            Self::Remap => "the NAT's public address or its ports change",
            Self::ServerRestart => "the server's process restarts",
            Self::ClientRestart => "the client's process restarts",
            Self::OneWayLoss => "packets are lost in one direction only",
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = |case: &Self| case.name() == text || text == format!("f{}", case.number());
        let found = Self::ALL.into_iter().find(named);
        found.ok_or_else(|| format!("no failure case \"{text}\": f1 to f12, or their long names"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbered_and_read_back() {
        for (n, case) in (1..).zip(Case::ALL) {
            assert_eq!(case.number(), n);
            assert!(case.name().starts_with(&format!("f{n}-")), "{case}");
            assert_eq!(case.name().parse(), Ok(case));
            assert_eq!(format!("f{n}").parse(), Ok(case));
        }
        assert!("f13".parse::<Case>().is_err());
    }
}
