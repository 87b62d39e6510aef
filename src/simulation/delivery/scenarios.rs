//! The faults that were, as scenarios.
