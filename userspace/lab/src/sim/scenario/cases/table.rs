//! The bounds as docs/recovery-bounds.md shows them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use mitregate_control::EncapMode;

use super::{Bound, Pair, Setting, encaps};
use crate::case::Case;

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

const fn word(encap: EncapMode) -> &'static str {
    match encap {
        EncapMode::Esp => "esp",
        EncapMode::Udp => "udp",
        EncapMode::Auto => "auto",
    }
}

/// The bounds of all rows with the gate, those that are alike together, and the terms that they are sums of.
#[must_use]
pub fn markdown() -> String {
    let mut terms: BTreeMap<&str, [Duration; 2]> = BTreeMap::new();
    let mut out =
        String::from("| case | NAT: encapsulation | bound | at most |\n|---|---|---|---|\n");
    for case in Case::ALL {
        let pairs = Pair::all().filter(|pair| pair.gated && pair.case == case);
        // In the order in which they were first seen.
        let mut alike: Vec<(Bound, Vec<String>)> = Vec::new();
        for pair in pairs {
            for (bound, encaps) in of_pair(pair) {
                for term in &bound.0 {
                    let range = terms.entry(term.name).or_insert([term.each; 2]);
                    *range = [range[0].min(term.each), range[1].max(term.each)];
                }
                let who = format!("{}: {}", pair.nat_name(), encaps.join(" "));
                match alike.iter_mut().find(|(known, _)| *known == bound) {
                    Some((_, all)) => all.push(who),
                    None => alike.push((bound, vec![who])),
                }
            }
        }
        // Those that most share come last, and are not counted up.
        alike.sort_by_key(|(_, who)| who.len());
        let most = alike.len() - 1;
        for (n, (bound, who)) in alike.iter().enumerate() {
            let who = match (n, most) {
                (0, 0) => "all".to_owned(),
                (n, most) if n == most => "all others".to_owned(),
                _ => who.join("; "),
            };
            let total = seconds(bound.total());
            let _ = writeln!(out, "| {case} | {who} | {bound} | {total} |");
        }
    }
    out += "\n| term | at the defaults |\n|---|---|\n";
    for (name, [least, most]) in terms {
        let figure = match least == most {
            true => seconds(most),
            false => format!("{} to {}", seconds(least), seconds(most)),
        };
        let _ = writeln!(out, "| {name} | {figure} |");
    }
    out
}

/// The bounds of a pair, with the encapsulations that each is for.
fn of_pair(pair: Pair) -> Vec<(Bound, Vec<&'static str>)> {
    let mut all: Vec<(Bound, Vec<&str>)> = Vec::new();
    for encap in encaps(pair.nat, 1) {
        let bound = Bound::of(&Setting::worst(pair, encap));
        match all.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, encaps)) => encaps.push(word(encap)),
            None => all.push((bound, vec![word(encap)])),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = "<!-- cargo xtask sim --bounds -->\n";
    const END: &str = "<!-- end -->";

    #[test]
    fn the_documented_bounds_are_those_that_runs_are_held_to() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/recovery-bounds.md");
        let page = std::fs::read_to_string(page).unwrap();
        let documented = page.split_once(BEGIN).unwrap().1.split_once(END).unwrap().0;
        assert_eq!(documented, markdown(), "run: cargo xtask sim --bounds");
    }

    #[test]
    fn no_run_is_held_to_more_than_its_pair() {
        for pair in Pair::all().filter(|pair| pair.gated) {
            for encap in encaps(pair.nat, 1) {
                let worst = Setting::worst(pair, encap);
                let smaller = Setting {
                    period: worst.period / 2,
                    rtt: worst.rtt / 2,
                    ..worst.clone()
                };
                let [less, most] = [&smaller, &worst].map(|s| Bound::of(s).total());
                assert!(less <= most && most <= pair.bound(), "{pair:?}");
            }
        }
    }
}
