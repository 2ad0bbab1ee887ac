//! Loads, attaches, configures and reads the XDP classifier.
