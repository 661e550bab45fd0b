//! lock-etcd
