//! The runtime of operators (skeleton).

/// An operator with the states of its keys.
pub trait Instance: Send {}
