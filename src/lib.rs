//! Shipbell rings when what runs in your cluster changes.
