//! Starts an etcd server, prints its process id, and waits to be killed.

#[tokio::main(flavor = "current_thread")]
async fn main() -> integration::Result<()> {
    let etcd = integration::Etcd::single().await?;
    println!("{}", etcd.pid(0).ok_or_else(|| integration::Error::NotRunning { name: "etcd".into() })?);
    std::future::pending().await
}
