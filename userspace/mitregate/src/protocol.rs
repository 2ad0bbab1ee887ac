//! What the command line and the daemon say to each other over the control socket: one JSON
//! object per line, a request, then any number of [`Response::Progress`], then one
//! [`Response::Done`] or [`Response::Error`].

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest line, in bytes, that a daemon reads.
pub const MAX_REQUEST: usize = 16 * 1024;

/// To the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Connections, IKE SAs, tunnels and their epochs.
    ListSas,
    /// Pools of virtual addresses and who has which.
    ListPools,
    /// How packets ended, and what the ports and the classifiers counted.
    Stats,
    /// Every event from now on, each a progress line; ends when either side hangs up.
    Monitor {
        /// Only of this tunnel (a child's name, or `connection/child`) or connection.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        about: Option<String>,
    },
    /// Brings a tunnel up; done when it carries data.
    Initiate {
        /// The child's name, or `connection/child`.
        child: String,
    },
    /// Takes a tunnel down; done when it is gone.
    TerminateChild {
        /// The child's name, or `connection/child`.
        child: String,
    },
    /// Takes all of a connection down; done when it is gone.
    TerminateIke {
        /// The connection's name.
        connection: String,
    },
    /// Replaces a tunnel's SAs by fresh ones; done when that is begun.
    RekeyChild {
        /// The child's name, or `connection/child`.
        child: String,
    },
    /// Replaces a connection's IKE SA by a fresh one; done when that is begun.
    RekeyIke {
        /// The connection's name.
        connection: String,
    },
    /// Pings through a tunnel; each answer is a progress line.
    Ping {
        /// The child's name, or `connection/child`.
        tunnel: String,
        /// How many.
        count: u32,
        /// From one to the next, in milliseconds.
        interval_ms: u64,
        /// Bytes of data in each.
        size: usize,
    },
}

/// From the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "kebab-case")]
pub enum Response {
    /// Something on the way.
    Progress {
        /// What.
        progress: Value,
    },
    /// It is done.
    Done {
        /// What came of it.
        result: Value,
    },
    /// It was not done.
    Error {
        /// Why.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line = serde_json::to_string(&Request::Initiate {
            child: "net".into(),
        })
        .unwrap();
        assert_eq!(line, r#"{"command":"initiate","child":"net"}"#);
        assert_eq!(
            serde_json::to_string(&Request::ListSas).unwrap(),
            r#"{"command":"list-sas"}"#
        );
        assert!(serde_json::from_str::<Request>(r#"{"command":"initiate"}"#).is_err());
        let unknown = r#"{"command":"initiate","child":"net","x":1}"#;
        assert!(serde_json::from_str::<Request>(unknown).is_err());
        let done = Response::Done {
            result: Value::Null,
        };
        let line = serde_json::to_string(&done).unwrap();
        assert_eq!(line, r#"{"response":"done","result":null}"#);
        assert_eq!(serde_json::from_str::<Response>(&line).unwrap(), done);
    }
}
