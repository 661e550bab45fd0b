//! lock-zk
