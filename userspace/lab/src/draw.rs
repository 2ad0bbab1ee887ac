//! What boxes and links draw, from whatever source of random numbers they are given.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand_core::Rng;

/// True in so many of a thousand cases; draws nothing for none.
pub fn chance(rng: &mut dyn Rng, per_mille: u32) -> bool {
    per_mille > 0 && rng.next_u32() % 1000 < per_mille
}

/// Uniform below `most`, in microseconds; draws nothing for zero.
pub fn below(rng: &mut dyn Rng, most: Duration) -> Duration {
    match u64::try_from(most.as_micros()) {
        Ok(most) if most > 0 => Duration::from_micros(rng.next_u64() % most),
        _ => Duration::ZERO,
    }
}

/// Uniform in `range`.
pub fn port_in(rng: &mut dyn Rng, range: &RangeInclusive<u16>) -> u16 {
    let span = u32::from(range.end().saturating_sub(*range.start())) + 1;
    range.start() + u16::try_from(rng.next_u32() % span).unwrap_or(0)
}
