//! lock-core
pub mod backend;
pub mod clock;
mod error;
mod name;
pub mod owner;
pub mod url;

pub use error::{Error, Loss, Result, Source};
pub use name::Name;
