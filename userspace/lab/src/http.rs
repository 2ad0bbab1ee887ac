//! One file over HTTP/1.0 (RFC 1945): the smallest server and client that do it.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    interrupt,
    netns::{Netns, join},
    payload::hex,
};

/// The server's TCP port.
pub const PORT: u16 = 8080;
/// Of a file at a pace: so many bytes at once.
const PART: u64 = 1 << 16;
/// Silence of the other side for that long is a failure.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves a file until dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Server {
    /// Serve that file as `/file` on every address of a host, each connection at no more than `pace`
    /// bytes a second.
    pub fn start(netns: &Netns, file: PathBuf, pace: Option<u64>) -> Result<Self> {
        let listener = netns.run(|| {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        // A socket stays in the namespace where it was made; the thread need not be there.
        let thread = thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                match listener.accept() {
                    // A client that goes away is its own affair: it reports what it got.
                    Ok((stream, _)) => {
                        let file = file.clone();
                        thread::spawn(move || drop(answer(stream, &file, pace)));
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        thread::sleep(Duration::from_millis(5));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        });
        Ok(Server {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(error)) = self.thread.take().map(join) {
            eprintln!("the HTTP server failed: {error:#}");
        }
    }
}

fn answer(mut stream: TcpStream, file: &Path, pace: Option<u64>) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream.try_clone()?).take(8192).lines();
    let request = lines.next().context("no request")??;
    while lines
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    if !request.starts_with("GET /file ") {
        stream.write_all(b"HTTP/1.0 404 Not Found\r\n\r\n")?;
        return Ok(());
    }
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    write!(
        stream,
        "HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
    )?;
    let Some(pace) = pace else {
        io::copy(&mut file, &mut stream)?;
        return Ok(());
    };
    let start = Instant::now();
    let mut sent = 0;
    loop {
        let part = io::copy(&mut (&mut file).take(PART), &mut stream)?;
        if part == 0 {
            return Ok(());
        }
        sent += part;
        let due = start + Duration::from_secs_f64(sent as f64 / pace as f64);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// What a fetch has brought.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Fetched {
    /// Length of the body.
    pub bytes: u64,
    /// Of the body, in hexadecimal.
    pub sha256: String,
    /// From the connection's start to the last byte.
    pub seconds: f64,
}

/// Get the file. Run inside the namespace that asks.
pub fn fetch(from: Ipv4Addr) -> Result<Fetched> {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&SocketAddrV4::new(from, PORT).into(), PATIENCE)
        .with_context(|| format!("cannot connect to {from}:{PORT}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /file HTTP/1.0\r\n\r\n")?;
    let mut reader = BufReader::with_capacity(1 << 18, stream);
    let mut status = String::new();
    reader.read_line(&mut status)?;
    if !status.contains(" 200 ") {
        bail!("the server says {status:?}");
    }
    let mut length = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            bail!("the answer ends in its header");
        }
        match line.trim_end().split_once(": ") {
            Some(("Content-Length", value)) => length = Some(value.parse::<u64>()?),
            Some(_) => {}
            None => break,
        }
    }
    let mut digest = Sha256::new();
    let mut bytes = 0;
    loop {
        interrupt::check()?;
        let part = reader.fill_buf().context("the transfer stalled")?;
        if part.is_empty() {
            break;
        }
        digest.update(part);
        let len = part.len();
        bytes += len as u64;
        reader.consume(len);
    }
    if length.is_some_and(|length| length != bytes) {
        bail!("{bytes} of {length:?} bytes came");
    }
    Ok(Fetched {
        bytes,
        sha256: hex(&digest.finalize()),
        seconds: start.elapsed().as_secs_f64(),
    })
}
