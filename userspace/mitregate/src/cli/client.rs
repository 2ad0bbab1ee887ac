//! The command line's end of the control socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::protocol::{Request, Response};

/// Sends a request and waits for its end, at most `timeout`. Progress goes to `progress`.
pub fn ask(
    socket: &Path,
    request: &Request,
    timeout: Option<Duration>,
    mut progress: impl FnMut(&Value) -> Result<()>,
) -> Result<Value> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut stream = UnixStream::connect(socket).map_err(|error| explain(socket, &error))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream
        .write_all(&line)
        .context("the daemon does not listen")?;
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    loop {
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        }
        line.clear();
        match reader.read_line(&mut line) {
            Ok(0) => bail!("the daemon hung up without an answer: see its log"),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                bail!(
                    "no result within {} s; the daemon goes on",
                    timeout.unwrap_or_default().as_secs()
                )
            }
            Err(error) => return Err(error).context("cannot read the daemon's answer"),
        }
        match serde_json::from_str(&line).context("the daemon's answer makes no sense")? {
            Response::Progress { progress: value } => progress(&value)?,
            Response::Done { result } => return Ok(result),
            Response::Error { message } => return Err(anyhow!(message)),
        }
    }
}

fn explain(socket: &Path, error: &io::Error) -> anyhow::Error {
    let socket = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => anyhow!(
            "no daemon listens on {socket}: start it with `mitregate run -c FILE`, or name its \
             control socket with --socket"
        ),
        io::ErrorKind::PermissionDenied => {
            anyhow!("{socket} belongs to another user: run this as the user of the daemon (root)")
        }
        _ => anyhow!("cannot connect to {socket}: {error}"),
    }
}
