//! The daemon's end of the control socket: a Unix socket that only its owner can use.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, Mode};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::protocol::{MAX_REQUEST, Request, Response};

/// Command lines that wait to be taken.
const BACKLOG: i32 = 128;
/// Command lines at a time.
const MAX_CLIENTS: usize = 32;
/// Responses that wait for a client to read them.
const MAX_WAITING: usize = 4096;
/// A client that sends nothing is sent away after this time.
const REQUEST_WAIT: Duration = Duration::from_secs(10);

/// The way back to a command line. Full when that does not read: then nobody waits for more.
pub type Responses = mpsc::Sender<Response>;

/// A request, and where its responses go. A response that cannot be sent any more means that
/// nobody waits for it.
pub struct Call {
    /// What is asked for.
    pub request: Request,
    /// The way back.
    pub responses: Responses,
}

/// The bound socket. Removed when dropped.
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Locked as long as the daemon runs; the kernel unlocks it however that ends.
    _lock: File,
}

impl ControlSocket {
    /// Binds, after taking the place of a daemon that crashed, but not of one that runs.
    pub fn bind(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(folder)
                .with_context(|| {
                    format!("cannot make {} for the control socket", folder.display())
                })?;
        }
        let lock = lock(path)?;
        // Bound under another name and renamed, so that a crashed daemon's socket is replaced.
        let new = with_suffix(path, ".new");
        let _ = fs::remove_file(&new);
        let bind = || -> io::Result<UnixListener> {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // Before it has a name, so that at no time somebody else can connect, whatever the
            // umask: the file gets the socket's mode.
            rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
            socket.bind(&SockAddr::unix(&new)?)?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            fs::rename(&new, path)?;
            UnixListener::from_std(socket.into())
        };
        let listener =
            bind().with_context(|| format!("cannot make the control socket {}", path.display()))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Takes requests until nobody wants them any more.
    pub async fn serve(self, calls: mpsc::Sender<Call>) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if clients.len() < MAX_CLIENTS => match accepted {
                    Ok((stream, _)) => {
                        clients.spawn(serve_client(stream, calls.clone()));
                    }
                    Err(error) => {
                        tracing::debug!("control socket: {error}");
                        // Out of descriptors, most likely: not in a tight loop.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = clients.join_next() => {}
                () = calls.closed() => return,
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn lock(path: &Path) -> Result<File> {
    let path = with_suffix(path, ".lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {} (needs root?)", path.display()))?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        bail!(
            "another mitregate daemon runs already (process {}): stop it, or give this one another \
             `daemon.control_socket`",
            pid.trim()
        );
    }
    let note = || -> io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    let mut note = note;
    note().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file)
}

async fn serve_client(mut stream: UnixStream, calls: mpsc::Sender<Call>) {
    let (reading, mut writing) = stream.split();
    let mut reading = BufReader::new(reading.take(MAX_REQUEST as u64));
    let mut line = String::new();
    let read = tokio::time::timeout(REQUEST_WAIT, reading.read_line(&mut line)).await;
    if !matches!(read, Ok(Ok(1..))) {
        return;
    }
    let request = match serde_json::from_str::<Request>(&line) {
        Ok(request) => request,
        Err(error) => {
            let message = format!("not a request of this version: {error}");
            let _ = send(&mut writing, &Response::Error { message }).await;
            return;
        }
    };
    let (responses, mut incoming) = mpsc::channel(MAX_WAITING);
    if calls.send(Call { request, responses }).await.is_err() {
        return;
    }
    let mut rest = String::new();
    loop {
        tokio::select! {
            response = incoming.recv() => {
                let response = response.unwrap_or_else(|| Response::Error {
                    message: "the daemon is going down".into(),
                });
                let last = !matches!(response, Response::Progress { .. });
                if send(&mut writing, &response).await.is_err() || last {
                    return;
                }
            }
            // The client went away (or says more than it should): so does its call.
            _ = reading.read_line(&mut rest) => return,
        }
    }
}

async fn send(writing: &mut (impl AsyncWriteExt + Unpin), response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    writing.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    async fn ask(path: &Path, line: &str) -> Vec<Response> {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let mut responses = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            responses.push(serde_json::from_str(&line).unwrap());
        }
        responses
    }

    #[tokio::test(flavor = "current_thread")]
    async fn requests_and_responses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/control.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (calls, mut incoming) = mpsc::channel(1);
        let server = tokio::spawn(socket.serve(calls));
        let answering = tokio::spawn(async move {
            let call: Call = incoming.recv().await.unwrap();
            assert_eq!(call.request, Request::ListSas);
            call.responses
                .try_send(Response::Progress { progress: 1.into() })
                .unwrap();
            call.responses
                .try_send(Response::Done { result: 2.into() })
                .unwrap();
            incoming
        });
        let responses = ask(&path, "{\"command\":\"list-sas\"}\n").await;
        assert_eq!(
            responses,
            [
                Response::Progress { progress: 1.into() },
                Response::Done { result: 2.into() }
            ]
        );
        for wrong in ["\n", "{}\n", "{\"command\":\"sing\"}\n", "\u{0}\n"] {
            let responses = ask(&path, wrong).await;
            assert!(
                matches!(&responses[..], [Response::Error { .. }]),
                "{wrong:?}"
            );
        }
        let long = "x".repeat(2 * MAX_REQUEST);
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let _ = stream.write_all(long.as_bytes()).await;
        drop(answering.await.unwrap());
        server.await.unwrap();
        assert!(!path.exists());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn one_daemon_at_a_time_and_a_crashed_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let first = ControlSocket::bind(&path).unwrap();
        let error = ControlSocket::bind(&path).err().unwrap().to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        drop(first);
        // What a crash leaves: a socket that nobody listens on.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = ControlSocket::bind(&path).unwrap();
        assert!(UnixStream::connect(&path).await.is_ok());
        drop(second);
    }
}
