//! The simulator: hosts with the real control and the real data plane, links and boxes between them, in one
//! thread, under virtual time and from one seed.
//!
//! The same seed gives the same run to the byte, so a seed that fails is a test case. The
//! [`referee`] looks at every packet, beside the code under test; a warning that the scenario
//! did not announce fails the run; and in the end both ends must agree ([`passing`]).

pub mod certificates;
pub mod digest;
pub mod host;
pub mod keys;
pub mod link;
pub mod packet;
pub mod passing;
pub mod referee;
pub mod runner;
pub mod scenario;
pub mod setup;
pub mod sweep;
pub mod trace;
pub mod watch;
pub mod world;

mod describe;
