//! The configuration and command line of a ZooKeeper server.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::Path;
use std::{fs, io};

use super::{Ports, ZooKeeperOptions};
use crate::{Certs, Tls};

/// The lines that name the servers of an ensemble.
pub(super) fn ensemble(ports: &[Ports]) -> String {
    let line =
        |(i, ports): (usize, &Ports)| format!("server.{}={}:{}\n", i + 1, ports.quorum.addr(), ports.election.number());
    ports.iter().enumerate().map(line).collect()
}

/// The settings of one server.
pub(super) fn zoo_cfg(options: &ZooKeeperOptions, certs: Option<&Certs>, home: &Path, ports: &Ports) -> String {
    let min_session_timeout = options.min_session_timeout.unwrap_or(2 * options.tick);
    let mut config = format!(
        "tickTime={}\ninitLimit=20\nsyncLimit=10\nminSessionTimeout={}\nmaxSessionTimeout={}\ndataDir={}\n\
         clientPort={}\nclientPortAddress=127.0.0.1\nmaxClientCnxns=0\nadmin.enableServer=false\n\
         4lw.commands.whitelist=*\n",
        options.tick.as_millis(),
        min_session_timeout.as_millis(),
        options.max_session_timeout.as_millis(),
        home.join("data").display(),
        ports.client.number(),
    );
    if let Some(certs) = certs {
        let client_auth = if options.tls == Tls::Mutual { "need" } else { "none" };
        // Writing to a String cannot fail. Only the Netty connection factory speaks TLS.
        let _ = write!(
            config,
            "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\nsecureClientPort={}\n\
             secureClientPortAddress=127.0.0.1\nssl.keyStore.location={}\nssl.trustStore.location={}\n\
             ssl.clientAuth={client_auth}\nssl.hostnameVerification=false\n",
            ports.secure.number(),
            certs.server_bundle().display(),
            certs.ca().display(),
        );
    }
    if options.sasl {
        config += "authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider\n";
    }
    for line in &options.extra_config {
        config.extend([line, "\n"]);
    }
    config
}

/// Writes what one server reads into its directory.
pub(super) fn write(home: &Path, id: usize, config: &str) -> io::Result<()> {
    fs::create_dir_all(home.join("data"))?;
    fs::write(home.join("data/myid"), id.to_string())?;
    fs::write(home.join("jaas.conf"), JAAS)?;
    fs::write(home.join("zoo.cfg"), config)
}

const JAAS: &str = r#"Server { org.apache.zookeeper.server.auth.DigestLoginModule required user_app="apppw"; };"#;

/// A JVM that starts fast and stays small, and a server that spares the disk.
const JVM_ARGS: &[&str] = &[
    "-Xms32m",
    "-Xmx96m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-XX:-UsePerfData",
    "-Djava.net.preferIPv4Stack=true",
    "-Dzookeeper.forceSync=no",
    "-Dzookeeper.jmx.log4j.disable=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=info",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
    // base64(sha1("super:superpw"))
    "-Dzookeeper.DigestAuthenticationProvider.superDigest=super:g9oN2HttPfn8MMWJZ2r45Np/LIA=",
];

/// The command line after `java`.
pub(super) fn jvm_args(options: &ZooKeeperOptions, home: &Path) -> Vec<OsString> {
    let mut args: Vec<OsString> = JVM_ARGS.iter().map(OsString::from).collect();
    if options.sasl {
        let mut login = OsString::from("-Djava.security.auth.login.config=");
        login.push(home.join("jaas.conf"));
        // DIGEST-MD5 is refused in FIPS mode, which later releases turn on by default.
        args.extend([login, "-Dzookeeper.fips-mode=false".into()]);
    }
    args.extend(options.extra_jvm_args.iter().map(OsString::from));
    args.extend(["-cp".into(), class_path("").into()]);
    args.extend(["org.apache.zookeeper.server.quorum.QuorumPeerMain".into(), home.join("zoo.cfg").into()]);
    args
}

/// The jars of ZooKeeper and what it needs, and `more`, by the names that Debian gives them; those not there are left out,
/// because releases differ in what they need.
pub(super) fn class_path(more: &str) -> String {
    const JARS: &str = "commons-cli commons-io findbugs-annotations jackson-annotations jackson-core jackson-databind \
        metrics-core netty-buffer netty-common netty-codec netty-handler netty-resolver netty-transport \
        netty-transport-native-epoll netty-transport-native-unix-common netty-all netty-tcnative \
        netty-tcnative-classes slf4j-api slf4j-simple snappy-java log4j-1.2 jetty9-server jetty9-servlet jetty9-util \
        jetty9-http jetty9-io jetty9-security servlet-api jline xerces2 netty-3.9";
    let dirs = std::env::var("ZK_JARS").unwrap_or_else(|_| "/usr/share/java".into());
    let dirs: Vec<&Path> = dirs.split(':').map(Path::new).collect();
    let find = |name: &str| dirs.iter().map(|dir| dir.join(format!("{name}.jar"))).find(|jar| jar.exists());
    let mut jars: Vec<_> = JARS.split_whitespace().chain(more.split_whitespace()).filter_map(find).collect();
    if let Some(zookeeper) = find("zookeeper") {
        // Jute must be of the server's own release. ZooKeeper comes last, because its manifest names other jars by
        // absolute paths, which may be those of another release.
        jars.extend(Some(zookeeper.with_file_name("zookeeper-jute.jar")).filter(|jute| jute.exists()));
        jars.push(zookeeper);
    }
    jars.iter().map(|jar| jar.to_string_lossy()).collect::<Vec<_>>().join(":")
}
