//! Keys for an analyser, only when asked for.

use mitregate_esp::CipherSuite;
use mitregate_wire::esp::Spi;
use zeroize::Zeroizing;

use crate::Control;
use crate::session::SessionId;

/// Keys in clear: what decrypts a capture. Has no `Debug`.
pub enum LoggedKeys {
    /// One line of Wireshark's `ikev2_decryption_table`; another line for the same SPIs replaces it for
    /// what follows (RFC 9370 §2.2.2).
    Ike(Zeroizing<String>),
    /// One CHILD_SA.
    Esp {
        /// The SPI that we receive on.
        spi_in: Spi,
        /// The SPI that we send on.
        spi_out: Spi,
        /// Cipher of both directions.
        suite: CipherSuite,
        /// Extended sequence numbers.
        esn: bool,
        /// Key and salt that we open with.
        key_in: Zeroizing<Vec<u8>>,
        /// Key and salt that we seal with.
        key_out: Zeroizing<Vec<u8>>,
    },
}

impl Control {
    /// Keeps the keys of all SAs to come for [`Self::take_keys`]. For a simulator, or for an operator who
    /// wants to read a capture: whoever has them reads everything.
    pub fn log_keys(&mut self) {
        self.key_log.get_or_insert_default();
    }

    /// What was logged since the last call.
    pub fn take_keys(&mut self) -> Vec<LoggedKeys> {
        self.key_log
            .as_mut()
            .map(core::mem::take)
            .unwrap_or_default()
    }

    /// Notes a session's keys when they are new.
    pub(crate) fn log_ike_keys(&mut self, id: SessionId) {
        let Some(log) = &mut self.key_log else { return };
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let keys = session.sa.export_keys();
        if let Some(line) = keys.filter(|line| session.logged_keys.as_ref() != Some(line)) {
            session.logged_keys = Some(line.clone());
            log.push(LoggedKeys::Ike(line));
        }
    }

    pub(crate) fn log_esp_keys(&mut self, child: &mitregate_ike::ChildSa) {
        if let Some(log) = &mut self.key_log {
            log.push(LoggedKeys::Esp {
                spi_in: child.spi_in,
                spi_out: child.spi_out,
                suite: child.suite,
                esn: child.esn,
                key_in: Zeroizing::new(child.key_in.expose_keymat().to_vec()),
                key_out: Zeroizing::new(child.key_out.expose_keymat().to_vec()),
            });
        }
    }
}
