//! A keeper in this process, with its daemons and takers.

use std::{
    io::Read as _,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::task::JoinHandle;

use super::{
    Event, Held, Item, Items, Kind, Orders, Taken,
    channel::Channel,
    item::{Label, unpack},
    listener::Listener,
    process::Keeper,
    take::take_at,
};

const LONG: Duration = Duration::from_secs(3600);

struct Setting {
    directory: tempfile::TempDir,
    keeper: JoinHandle<Result<()>>,
}

impl Setting {
    fn path(&self) -> PathBuf {
        self.directory.path().join("keeper.sock")
    }

    async fn take(&self) -> Result<Option<Taken>> {
        take_at(&self.path(), "test").await
    }

    async fn take_all(&self) -> Result<Taken> {
        self.take().await?.context("there is a keeper")
    }

    /// Nothing is left of a keeper that has ended.
    async fn has_ended(self) -> Result<()> {
        let path = self.path();
        self.keeper.await??;
        assert!(take_at(&path, "test").await?.is_none());
        assert!(!path.exists());
        Ok(())
    }
}

fn orders(grace: Duration) -> Orders {
    Orders {
        layout: 7,
        steer: Vec::new(),
        grace,
    }
}

/// A daemon whose keeper holds a listener.
fn daemon(grace: Duration) -> Result<(Setting, Held, SocketAddr)> {
    let directory = tempfile::tempdir()?;
    let socket = Listener::open(&directory.path().join("keeper.sock"))?;
    let (channel, theirs) = Channel::pair()?;
    let control = ["sock", "status.sock"].map(|name| directory.path().join(name));
    let keeper = Keeper::new(socket, control, Channel::new(theirs)?)?;
    let keeper = tokio::spawn(keeper.run());
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let mut held = Held::with("test", orders(grace), Items::new(), channel)?;
    held.serve();
    held.hold_all(Items::from([("listener".into(), Item::of(listener)?)]));
    Ok((Setting { directory, keeper }, held, address))
}

fn listener(taken: &Taken) -> Result<TcpListener> {
    let item = taken.items.get("listener").context("it was held")?;
    Ok(item.fd.try_clone()?.into())
}

#[tokio::test]
async fn what_a_dead_daemon_had_goes_to_the_next() -> Result<()> {
    let (setting, held, address) = daemon(LONG)?;
    held.die()?;
    let waiting = TcpStream::connect(address)?;

    let taken = setting.take_all().await?;
    assert_eq!((taken.daemon, &taken.orders), (None, &orders(LONG)));
    assert_eq!(taken.items["listener"].kind, Kind::Listener(address));
    let (_, from) = listener(&taken)?.accept()?;
    assert_eq!(from, waiting.local_addr()?);

    let items = Items::from([("other".into(), Item::of(TcpListener::bind("[::1]:0")?)?)]);
    let held = taken.confirm(orders(Duration::ZERO), items).await?;
    // What the next one didn't name isn't held any more.
    assert!(TcpStream::connect(address).is_err());
    held.end().await;
    setting.has_ended().await
}

#[tokio::test]
async fn a_living_daemon_hears_that_it_is_replaced() -> Result<()> {
    let (setting, mut old, _) = daemon(Duration::ZERO)?;
    let mut taken = setting.take_all().await?;
    let own = rustix::process::getpid();
    assert_eq!(taken.daemon, Some(own));
    let items = std::mem::take(&mut taken.items);
    let held = taken.confirm(orders(Duration::ZERO), items).await?;
    let by = own.as_raw_nonzero().get();
    assert_eq!(old.event().await, Event::Replaced { by });
    old.die()?;

    // The old one's death changes nothing: there is no grace at all.
    let taken = setting.take_all().await?;
    assert_eq!(taken.daemon, Some(own));
    drop(taken);
    held.die()?;
    setting.has_ended().await
}

#[tokio::test]
async fn if_nobody_comes_what_waits_is_reset() -> Result<()> {
    let (setting, held, address) = daemon(Duration::from_millis(50))?;
    let mut waiting = TcpStream::connect(address)?;
    held.die()?;
    setting.has_ended().await?;
    let reset = waiting.read(&mut [0]).expect_err("no end in order");
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(TcpStream::connect(address).is_err());
    Ok(())
}

#[tokio::test]
async fn a_taker_that_dies_does_no_harm() -> Result<()> {
    let (setting, held, address) = daemon(LONG)?;
    held.die()?;
    for _ in 0..5 {
        let taken = setting.take_all().await?;
        let refused = setting.take().await.err().context("one at a time")?;
        assert!(
            refused.to_string().contains("just taking over"),
            "{refused}"
        );
        drop(taken);
    }
    let taken = setting.take_all().await?;
    assert_eq!(taken.items["listener"].kind, Kind::Listener(address));
    drop(taken);
    setting.keeper.abort();
    Ok(())
}

#[tokio::test]
async fn many_descriptors_come_in_several_messages() -> Result<()> {
    let (setting, mut held, _) = daemon(LONG)?;
    let many = (0..300).map(|n| Ok((n.to_string(), Item::of(crate::sys::current_netns()?)?)));
    held.hold_all(many.collect::<Result<_>>()?);
    held.release("listener");
    let taken = setting.take_all().await?;
    assert_eq!(taken.items.len(), 300);
    held.end().await;
    drop(taken);
    setting.has_ended().await
}

#[tokio::test]
async fn a_daemon_that_ends_by_itself_leaves_nothing_to_another() -> Result<()> {
    let (setting, held, address) = daemon(LONG)?;
    drop(held);
    setting.has_ended().await?;
    assert!(TcpStream::connect(address).is_err());
    Ok(())
}

#[test]
fn nothing_is_believed_of_a_descriptor() -> Result<()> {
    let fd = || TcpListener::bind("127.0.0.1:0").map(Into::into);
    let named = |kind| Label {
        name: "name".into(),
        kind,
    };
    let label = named(Kind::Tun("truepeer0".into()));
    assert!(unpack(vec![label], vec![fd()?]).is_err());
    let right = named(Kind::of(fd()?)?);
    assert!(
        unpack(vec![right.clone()], vec![fd()?]).is_err(),
        "another's"
    );
    assert!(unpack(vec![right], Vec::new()).is_err(), "lost on the way");
    Ok(())
}
