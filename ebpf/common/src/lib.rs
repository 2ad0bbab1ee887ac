//! What the XDP classifier and its loader share: the classify function, map keys and counters.
