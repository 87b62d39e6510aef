//! Which of several instances leads: the one whose name a Lease holds.

pub mod election;
mod lease;
#[cfg(test)]
mod tests;
