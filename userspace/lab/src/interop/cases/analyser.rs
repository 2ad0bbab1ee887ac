//! A captured session, decrypted by tshark with the keys that mitregate saved: every message and
//! every ESP packet must make sense to it.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    super::{
        run::Run,
        setup::{CHILD, Setup},
    },
    Case,
};
use crate::{interrupt, sh, topology::Host};

/// tcpdump hands its last packets over within a second.
const DRAIN: Duration = Duration::from_millis(1300);

pub(super) fn cases() -> Vec<Case> {
    vec![Case::new("tshark-decrypts", save_keys, decrypt).quick()]
}

fn save_keys(setup: &mut Setup) {
    setup.mitregate.daemon = "save_keys = \"@RUN@/keys\"".into();
}

struct Capture(Child);

impl Capture {
    fn start(run: &Run, file: &Path) -> Result<Self> {
        let mut tcpdump = run
            .lab
            .host(Host::Nat)
            .command("tcpdump")
            .args(["-i", "wan", "-n", "-Z", "root", "-U", "-w"])
            .arg(file)
            .arg("udp or ip proto 50")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start tcpdump")?;
        // It writes the file's header when it listens.
        let what = "tcpdump to listen";
        interrupt::poll(
            what,
            Duration::from_millis(20),
            Duration::from_secs(10),
            || {
                if let Some(status) = tcpdump.try_wait()? {
                    bail!("tcpdump ended: {status}");
                }
                Ok(fs::metadata(file)
                    .is_ok_and(|meta| meta.len() > 0)
                    .then_some(()))
            },
        )?;
        Ok(Capture(tcpdump))
    }

    fn stop(mut self) -> Result<()> {
        interrupt::sleep(DRAIN)?;
        kill_process(Pid::from_child(&self.0), Signal::INT)?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn decrypt(run: &mut Run) -> Result<String> {
    let file = run.logs.join("capture.pcap");
    let capture = Capture::start(run, &file)?;
    run.up()?;
    let counted = run.exchange()?;
    let spis = run.spis()?;
    run.swan()?.swanctl(&["--rekey", "--child", CHILD])?;
    run.wait_rekeyed(&spis)?;
    run.exchange()?;
    run.wait_settled()?;
    capture.stop()?;

    // A home with the saved keys as its profile.
    let home = run.logs.join("wireshark");
    let profile = home.join(".config/wireshark");
    fs::create_dir_all(&profile)?;
    let keys = run.lab.run_dir().join("keys");
    for name in ["ikev2_decryption_table", "esp_sa"] {
        fs::copy(keys.join(name), profile.join(name))
            .with_context(|| format!("mitregate saved no {name}"))?;
    }
    fs::write(
        profile.join("preferences"),
        "esp.enable_encryption_decode: TRUE\n",
    )?;
    let count = |filter: &str| -> Result<usize> {
        let mut tshark = sh::command("tshark");
        tshark
            .env("HOME", &home)
            .env("XDG_CONFIG_HOME", home.join(".config"))
            .args([
                "-n",
                "-T",
                "fields",
                "-e",
                "frame.number",
                "-Y",
                filter,
                "-r",
            ])
            .arg(&file);
        Ok(sh::output(&mut tshark)?.lines().count())
    };
    let protected = count("isakmp.exchangetype >= 35 && isakmp.exchangetype <= 37")?;
    // Shown only where the Encrypted payload was opened and its checksum is right.
    let opened =
        count("isakmp.exchangetype >= 35 && isakmp.exchangetype <= 37 && isakmp.enc.decrypted")?;
    let probes = count("esp && udp.dstport >= 7000 && udp.dstport < 7100")?;
    let esp = count("esp")?;
    let malformed = count("_ws.malformed")?;
    let errors = count("_ws.expert.severity == error")?;
    ensure!(protected >= 4, "only {protected} protected IKE messages");
    ensure!(
        opened == protected,
        "tshark opens {opened} of {protected} IKE messages"
    );
    ensure!(
        probes >= 4 * super::super::run::PROBES,
        "tshark sees {probes} probes inside {esp} ESP packets"
    );
    ensure!(malformed == 0, "tshark calls {malformed} packets malformed");
    ensure!(errors == 0, "tshark has complaints about {errors} packets");
    Ok(format!(
        "{counted}; {opened} IKE messages and {probes} probes in {esp} ESP packets opened, none malformed"
    ))
}
