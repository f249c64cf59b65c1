//! Names that are asked for: families of generated ones, layouts of tunnels, and what machines ask in their ordinary work.
//!
//! What always holds: a name follows from the seed and numbers alone; every name ends in `.example` or is one that nobody
//! can register, so no verdict is about a real site.

pub mod families;
pub mod layout;
pub(crate) mod ordinary;

pub use families::Family;
pub use layout::Layout;
