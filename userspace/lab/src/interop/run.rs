//! One case at work: its lab, both daemons, and what is asked and counted.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    setup::{CHILD, CONNECTION, Role, Setup},
    swan::{self, Release, Swan},
};
use crate::{
    daemon::{Daemon, epochs},
    interrupt,
    probe::{Probe, Tally},
    topology::{CLIENT_INNER, Host, Lab, SERVER},
};

/// For anything that must come.
pub const PATIENCE: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(60);
/// Datagrams each way that a case counts.
pub const PROBES: usize = 200;
const PACE: Duration = Duration::from_millis(5);

/// A case at work.
pub struct Run {
    /// As configured.
    pub setup: Setup,
    /// The peer's release.
    pub release: Release,
    /// Where the logs go.
    pub logs: PathBuf,
    /// None while it is dead. Before the lab, so that it ends first when a case fails.
    pub daemon: Option<Daemon>,
    /// See there.
    pub swan: Option<Swan>,
    /// Its hosts.
    pub lab: Lab,
    /// The next port for probes.
    port: u16,
}

impl Run {
    /// Lab up, both configured, none started.
    pub fn prepare(name: &str, setup: Setup, release: &Release, logs: &Path) -> Result<Self> {
        let lab = Lab::up_with(name, setup.middle)?;
        lab.write_secret("secret", &setup.secrets[0])?;
        let run = Run {
            setup,
            lab,
            release: release.clone(),
            logs: logs.to_owned(),
            daemon: None,
            swan: None,
            port: 7000,
        };
        run.configure()?;
        if let Some(pki) = &run.setup.pki {
            let swan = swan::folder(&run.lab, run.setup.role.swan());
            pki.make(run.lab.run_dir(), &swan)?;
        }
        if run.setup.role == Role::Responder {
            for address in &run.setup.client_addresses {
                let client = run.lab.host(Host::Client);
                client.ip(&format!("address add {address} dev lo"))?;
            }
        }
        Ok(run)
    }

    /// Write all configuration anew.
    pub fn configure(&self) -> Result<()> {
        let run = self.lab.run_dir().display().to_string();
        let file = format!("{}.toml", self.setup.role.mitregate().name());
        self.lab.write_secret(&file, &self.setup.toml(&run))?;
        let Setup { swan, role, .. } = &self.setup;
        let swanctl = self.setup.swanctl();
        let levels = swan::TALKATIVE;
        swan::configure(&self.lab, role.swan(), levels, &swan.charon, &swanctl)
    }

    /// Mitregate.
    pub fn start_mitregate(&mut self) -> Result<()> {
        let host = self.setup.role.mitregate();
        let daemon = Daemon::start(&self.lab, host, &self.logs)?;
        self.daemon.insert(daemon).wait_ready(PATIENCE)
    }

    /// strongSwan.
    pub fn start_swan(&mut self) -> Result<()> {
        let host = self.setup.role.swan();
        self.swan = Some(Swan::start(&self.lab, host, &self.release, &self.logs)?);
        Ok(())
    }

    /// Both daemons, the responder first.
    pub fn start(&mut self) -> Result<()> {
        match self.setup.role {
            Role::Initiator => {
                self.start_swan()?;
                self.start_mitregate()
            }
            Role::Responder => {
                self.start_mitregate()?;
                self.start_swan()
            }
        }
    }

    /// Both daemons, and every child up.
    pub fn up(&mut self) -> Result<()> {
        self.start()?;
        if self.setup.role == Role::Responder {
            self.initiate_by_swan()?;
        }
        self.wait_up()
    }

    /// strongSwan brings up every child.
    pub fn initiate_by_swan(&self) -> Result<()> {
        for child in &self.setup.children {
            let initiate = ["--initiate", "--child", &child.name, "--timeout", "15"];
            self.swan()?.swanctl(&initiate)?;
        }
        Ok(())
    }

    /// Until each child is up at both ends.
    pub fn wait_up(&mut self) -> Result<()> {
        interrupt::poll("all children to be up at both ends", TICK, PATIENCE, || {
            self.check()?;
            let list = self.list()?;
            let tunnels = list["tunnels"].as_array().map_or(&[][..], Vec::as_slice);
            let ours = !tunnels.is_empty() && tunnels.iter().all(|t| t["status"] != "down");
            Ok((ours && self.installed()? >= self.setup.children.len()).then_some(()))
        })
    }

    /// An error once a daemon that should live does not.
    pub fn check(&mut self) -> Result<()> {
        if let Some(daemon) = &mut self.daemon {
            daemon.check()?;
        }
        if let Some(swan) = &mut self.swan {
            swan.check()?;
        }
        Ok(())
    }

    /// The running strongSwan.
    pub fn swan(&self) -> Result<&Swan> {
        self.swan.as_ref().context("strongSwan does not run")
    }

    /// The running daemon.
    pub fn daemon(&self) -> Result<&Daemon> {
        self.daemon.as_ref().context("mitregate does not run")
    }

    /// `mitregate list-sas`.
    pub fn list(&self) -> Result<Value> {
        self.daemon()?.control().ask(&["list-sas"])
    }

    /// CHILD_SAs that strongSwan calls installed.
    pub fn installed(&self) -> Result<usize> {
        Ok(self.swan()?.sas()?.matches(", INSTALLED").count())
    }

    /// IKE SAs that strongSwan calls established.
    pub fn established(&self) -> Result<usize> {
        Ok(self.swan()?.sas()?.matches(", ESTABLISHED").count())
    }

    /// Until both ends have exactly one IKE SA and as many CHILD_SAs as there are children.
    pub fn wait_settled(&mut self) -> Result<()> {
        let wanted = self.setup.children.len();
        let mut last = String::new();
        let settled = interrupt::poll("one IKE SA, and no child too many", TICK, PATIENCE, || {
            self.check()?;
            let list = self.list()?;
            let ike = list["ike_sas"].as_array().map_or(0, Vec::len);
            let live = epochs(&list)
                .filter(|epoch| epoch["state"] != "dead")
                .count();
            let (installed, established) = (self.installed()?, self.established()?);
            last = format!(
                "mitregate has {ike} IKE SAs and {live} epochs, strongSwan {established} and {installed}"
            );
            Ok(
                (ike == 1 && live == wanted && established == 1 && installed == wanted)
                    .then_some(()),
            )
        });
        settled.with_context(|| last)
    }

    /// `list-sas`'s youngest IKE SA that is established; one that it replaced may still be there.
    pub fn ike_sa(&self) -> Result<Value> {
        let list = self.list()?;
        let all = list["ike_sas"].as_array().into_iter().flatten();
        all.filter(|sa| sa["state"] == "established")
            .min_by_key(|sa| sa["age_ms"].as_u64())
            .cloned()
            .context("mitregate has no IKE SA")
    }

    /// The epoch that carries a child's data.
    pub fn epoch(&self, child: &str) -> Result<Value> {
        let name = format!("{CONNECTION}/{child}");
        let list = self.list()?;
        let tunnels = list["tunnels"].as_array().into_iter().flatten();
        tunnels
            .filter(|tunnel| tunnel["name"] == name.as_str())
            .flat_map(|tunnel| tunnel["epochs"].as_array().into_iter().flatten())
            .find(|epoch| epoch["active"] == true)
            .cloned()
            .with_context(|| format!("{name} carries no data"))
    }

    /// SPIs of the epoch that carries the first child's data.
    pub fn spis(&self) -> Result<[String; 2]> {
        let epoch = self.epoch(CHILD)?;
        Ok(["spi_in", "spi_out"].map(|field| epoch[field].as_str().unwrap_or("?").to_owned()))
    }

    /// Until the first child's data goes by other SPIs than these.
    pub fn wait_rekeyed(&mut self, old: &[String; 2]) -> Result<()> {
        interrupt::poll("data to go by fresh SPIs", TICK, PATIENCE, || {
            self.check()?;
            Ok(self.spis().ok().filter(|new| new != old).map(drop))
        })
    }

    /// Until the IKE SA is another one than that.
    pub fn wait_new_ike(&mut self, old: &Value) -> Result<Value> {
        interrupt::poll("a new IKE SA", TICK, PATIENCE, || {
            self.check()?;
            let new = self.ike_sa().ok();
            Ok(new.filter(|sa| {
                sa["spi_local"] != old["spi_local"] && sa["spi_remote"] != old["spi_remote"]
            }))
        })
    }

    /// Until it holds.
    pub fn wait(
        &mut self,
        what: &str,
        mut look: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        interrupt::poll(what, TICK, PATIENCE, || {
            self.check()?;
            Ok(look(self)?.then_some(()))
        })
    }

    /// Streams both ways between the first child's ends, until told.
    pub fn stream(&mut self) -> Result<Streams> {
        self.streams(None, CLIENT_INNER, SERVER)
    }

    /// A stream one way between the first child's ends, from the client or to it, until told.
    pub fn one_way(&mut self, from_client: bool) -> Result<Probe> {
        let client: (_, Ipv4Addr) = (self.lab.host(Host::Client), CLIENT_INNER.parse()?);
        let server: (_, Ipv4Addr) = (self.lab.host(Host::Server), SERVER.parse()?);
        self.port += 1;
        match from_client {
            true => Probe::start(client, server, self.port, None, PACE),
            false => Probe::start(server, client, self.port, None, PACE),
        }
    }

    fn streams(&mut self, count: Option<usize>, client: &str, server: &str) -> Result<Streams> {
        let left: (_, Ipv4Addr) = (self.lab.host(Host::Client), client.parse()?);
        let right: (_, Ipv4Addr) = (self.lab.host(Host::Server), server.parse()?);
        self.port += 1;
        Ok(Streams {
            up: Probe::start(left, right, self.port, count, PACE)?,
            down: Probe::start(right, left, self.port, count, PACE)?,
            started: Instant::now(),
        })
    }

    /// [`PROBES`] each way between the first child's ends; all must arrive.
    pub fn exchange(&mut self) -> Result<String> {
        self.exchange_between(CLIENT_INNER, SERVER)
    }

    /// The same between others, and both ends must have counted them in and out of ESP.
    pub fn exchange_between(&mut self, client: &str, server: &str) -> Result<String> {
        let before = self.totals()?;
        let streams = self.streams(Some(PROBES), client, server)?;
        let (up, down) = streams.wait()?;
        let text = told(&up, &down);
        ensure!(up.is_complete() && down.is_complete(), "{text}");
        let after = self.totals()?;
        let moved = [after[0] - before[0], after[1] - before[1]];
        let probes = u64::try_from(PROBES)?;
        ensure!(
            moved.iter().all(|count| *count >= probes),
            "{text}, but mitregate's SAs carried {} in and {} out",
            moved[0],
            moved[1]
        );
        Ok(text)
    }

    /// Inner packets in and out over all tunnels.
    fn totals(&self) -> Result<[u64; 2]> {
        let list = self.list()?;
        let tunnels = list["tunnels"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(["packets_in", "packets_out"]
            .map(|field| tunnels.iter().filter_map(|t| t[field].as_u64()).sum()))
    }

    /// What mitregate has logged.
    pub fn log(&self) -> String {
        let name = format!("{}.log", self.setup.role.mitregate().name());
        std::fs::read_to_string(self.logs.join(name)).unwrap_or_default()
    }

    /// Until mitregate's log holds that.
    pub fn wait_log(&mut self, text: &str) -> Result<()> {
        let what = format!("mitregate to log {text:?}");
        self.wait(&what, |run| Ok(run.log().contains(text)))
    }

    /// End both in order; each must manage that.
    pub fn end(mut self) -> Result<()> {
        if let Some(daemon) = self.daemon.take() {
            daemon.terminate()?;
        }
        if let Some(swan) = self.swan.take() {
            swan.terminate()?;
        }
        self.lab.take_down()
    }
}

/// Both ways at once.
pub struct Streams {
    up: Probe,
    down: Probe,
    started: Instant,
}

impl Streams {
    /// Until each has sent for that long.
    pub fn at_least(&self, time: Duration) -> Result<()> {
        interrupt::sleep(time.saturating_sub(self.started.elapsed()))
    }

    /// Send no more, and count.
    pub fn stop(self) -> Result<(Tally, Tally)> {
        let up = self.up.stop()?;
        Ok((up, self.down.stop()?))
    }

    fn wait(self) -> Result<(Tally, Tally)> {
        let up = self.up.wait()?;
        Ok((up, self.down.wait()?))
    }

    /// Send no more; every one must have arrived, at least [`PROBES`] each way.
    pub fn all_arrived(self) -> Result<String> {
        self.all_but(0)
    }

    /// The same, but for `allowed` of each way.
    pub fn all_but(self, allowed: usize) -> Result<String> {
        self.at_least(PACE * u32::try_from(PROBES + 20)?)?;
        let (up, down) = self.stop()?;
        let text = told(&up, &down);
        let good = [&up, &down]
            .into_iter()
            .all(|tally| tally.lacks_at_most(allowed));
        ensure!(good, "{text}");
        ensure!(up.sent.min(down.sent) >= PROBES, "too few probes: {text}");
        Ok(text)
    }
}

/// For events at which a peer stops receiving on its old SAs at once: what is under way then is lost.
pub const UNDER_WAY: usize = 2;

/// "200/200 up, 199/200 down (1 in a row missing)".
pub fn told(up: &Tally, down: &Tally) -> String {
    let one = |tally: &Tally, way: &str| {
        let mut text = format!("{}/{} {way}", tally.received, tally.sent);
        if tally.hole > 0 {
            text += &format!(
                " ({} in a row missing, {} ms without)",
                tally.hole,
                tally.gap.as_millis()
            );
        }
        if tally.duplicates > 0 {
            text += &format!(" ({} twice)", tally.duplicates);
        }
        text
    };
    format!("{}, {}", one(up, "up"), one(down, "down"))
}

/// An error unless the field is that text.
pub fn expect(value: &Value, field: &str, wanted: &str) -> Result<()> {
    match value[field].as_str() {
        Some(found) if found == wanted => Ok(()),
        found => bail!("{field} is {found:?} instead of {wanted:?}"),
    }
}
