//! Which file systems are shared with other hosts, whose processes the kernel of this one does not know.

use std::io;
use std::path::Path;

use lock_core::Result;

use crate::error::unsuitable;
use crate::sys;

/// File systems that other hosts may see, by the number that `statfs` gives. FUSE may be anything, and virtiofs looks like it.
const SHARED: [(u64, &str); 24] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xfe53_4d42, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0102_1997, "9P"),
    (0x6573_5546, "FUSE or virtiofs"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x2003_0528, "OrangeFS"),
    (0xaad7_aaea, "PanFS"),
    (0x6163_6673, "ACFS"),
    (0x0131_11a8, "IBRIX"),
    (0xbeef_dead, "StorNext"),
    (0x564c, "NCP"),
    (0x786f_4256, "VirtualBox shared folders"),
    (0xbacb_acbc, "VMware shared folders"),
    (0x7c7c_6673, "Parallels shared folders"),
];

/// Refuses a directory on a file system that other hosts may use.
pub(crate) fn check(directory: &Path) -> Result<()> {
    let number = match sys::file_system(directory) {
        Ok(number) => number,
        Err(failed) if failed.is(io::ErrorKind::NotFound) => {
            return Err(unsuitable(directory, "a directory that nobody removes meanwhile"));
        }
        Err(failed) => return Err(failed.classify("look at the file system", directory)),
    };
    match shared_name(number) {
        None => Ok(()),
        Some(name) => Err(unsuitable(
            directory,
            format!(
                "a directory on a file system of this host alone; this one is on {name}, where processes of other hosts \
                 could not be told apart from dead ones. Use a local disk, or a store for several hosts: etcd or ZooKeeper"
            ),
        )),
    }
}

fn shared_name(number: u64) -> Option<&'static str> {
    SHARED.iter().find(|(of, _)| *of == number).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_of_several_hosts_are_known_and_local_ones_are_not_among_them() {
        for (number, want) in [(0x6969, "NFS"), (0xff53_4d42, "CIFS"), (0x0102_1997, "9P"), (0x00c3_6400, "Ceph")] {
            assert_eq!(shared_name(number), Some(want));
        }
        // ext4, XFS, Btrfs, tmpfs, overlayfs, ZFS, F2FS
        for local in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1, 0xf2f5_2010] {
            assert_eq!(shared_name(local), None, "{local:x}");
        }
    }

    #[test]
    fn a_directory_on_a_network_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        check(directory.path()).unwrap();
        sys::test::pretend_file_system(0x6969);
        let text = check(directory.path()).unwrap_err().to_string();
        assert!(text.contains("NFS") && text.contains(directory.path().to_str().unwrap()), "{text}");
    }
}
