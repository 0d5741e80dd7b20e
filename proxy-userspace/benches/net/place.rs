//! A network namespace for load generators, whoever made it.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::lab::netns::Netns;

#[derive(Clone)]
pub struct Place(Arc<File>);

impl Place {
    pub fn of(netns: &Netns) -> Result<Self> {
        Ok(Self(Arc::new(File::open(netns.path())?)))
    }

    /// The namespace that some of the process's threads are in while its first one isn't.
    pub fn inside(pid: Pid) -> Result<Self> {
        let host = fs::metadata(format!("/proc/{pid}/ns/net"))?.ino();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let netns = File::open(task?.path().join("ns/net"))?;
            if netns.metadata()?.ino() != host {
                return Ok(Self(Arc::new(netns)));
            }
        }
        None.context("no thread of truepeer is in a namespace of its own")
    }

    /// Moves the calling thread there for good.
    pub fn settle(&self) {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("a namespace that we hold can be entered");
    }

    /// Runs `work` there on another thread. Sockets that it makes stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.settle();
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
