//! One ESP security association: sequence numbers, replay window, AEAD providers, seal and open in place.
