//! The clock's type.

/// A moment on the monotonic clock: the time since an arbitrary start, the same in all of a process.
pub type Moment = std::time::Duration;
