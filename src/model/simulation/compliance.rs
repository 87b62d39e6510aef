//! Rules, and what becomes of environments that have some.
