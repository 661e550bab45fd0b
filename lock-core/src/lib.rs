//! lock-core
