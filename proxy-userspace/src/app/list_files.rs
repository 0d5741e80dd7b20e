//! Notices when a file changes that a list comes from: written in place, replaced, or behind a link that points
//! elsewhere now.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ffi::{OsStr, OsString},
    fs, io,
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Component, Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, timeout_at},
};

use crate::config::Config;

/// Who writes a file may take several steps, which are seen as one.
const QUIET: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(2);
/// As many links may lead to a file, as the kernel has it.
const MOST_LINKS: usize = 40;

pub struct ListFiles {
    files: Vec<PathBuf>,
    /// None: nothing to watch, or no way to.
    watch: Option<Watch>,
    /// Something has changed, and more may follow, up to the second time.
    quiet: Option<(Instant, Instant)>,
}

impl ListFiles {
    /// Where it can't, it says so: a reload reads them as ever.
    pub fn watch(config: &Config) -> Self {
        let services = config.services.iter();
        let lists = services.flat_map(|service| [&service.allow, &service.deny]);
        let files: Vec<_> = lists.flat_map(|list| list.files.clone()).collect();
        Self {
            watch: watch(&files),
            files,
            quiet: None,
        }
    }

    /// Until one of them may be another one. Can be cancelled.
    pub async fn changed(&mut self) {
        loop {
            let Some(watch) = &mut self.watch else {
                return std::future::pending().await;
            };
            match self.quiet {
                Some((quiet, _)) => match timeout_at(quiet, watch.event()).await {
                    Ok(event) => self.note(event),
                    Err(_) => break,
                },
                None => {
                    let event = watch.event().await;
                    self.note(event);
                }
            }
        }
        self.quiet = None;
        // Before they are read: so that nothing is missed in between.
        self.watch = watch(&self.files);
    }

    fn note(&mut self, event: io::Result<bool>) {
        match event {
            Ok(false) => {}
            Ok(true) => {
                let now = Instant::now();
                let last = self.quiet.map_or(now + LONGEST, |(_, last)| last);
                self.quiet = Some(((now + QUIET).min(last), last));
            }
            Err(error) => {
                tracing::warn!("{UNSEEN}: {error}");
                self.watch = None;
            }
        }
    }
}

const UNSEEN: &str = "changes of the lists' files are not noticed until a reload";

fn watch(files: &[PathBuf]) -> Option<Watch> {
    if files.is_empty() {
        return None;
    }
    let watch = Watch::new(files);
    watch
        .inspect_err(|error| tracing::warn!("{UNSEEN}: {error}"))
        .ok()
}

/// Each step of the ways to some files.
struct Watch {
    inotify: AsyncFd<OwnedFd>,
    watched: HashMap<i32, Directory>,
}

struct Directory {
    path: PathBuf,
    steps: HashSet<OsString>,
}

impl Watch {
    fn new(files: &[PathBuf]) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let mut watch = Self {
            // SAFETY: an `OwnedFd` stays the same descriptor until it is dropped.
            inotify: unsafe { AsyncFd::register(inotify) }?,
            watched: HashMap::new(),
        };
        for file in files {
            watch.add(&std::path::absolute(file)?)?;
        }
        Ok(watch)
    }

    /// Goes from the root to the file, along links.
    fn add(&mut self, file: &Path) -> io::Result<()> {
        let mut at = PathBuf::from("/");
        let mut ahead = steps(file);
        let mut links = 0;
        while let Some(step) = ahead.pop_front() {
            if step == ".." {
                at.pop();
                continue;
            }
            self.look_for(&at, &step)?;
            let next = at.join(&step);
            match fs::read_link(&next) {
                Ok(link) if links < MOST_LINKS => {
                    links += 1;
                    if link.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    ahead = steps(&link).into_iter().chain(ahead).collect();
                }
                // There may be nothing there just now.
                Ok(_) | Err(_) => at = next,
            }
        }
        Ok(())
    }

    fn look_for(&mut self, directory: &Path, name: &OsStr) -> io::Result<()> {
        let changes = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(&self.inotify, directory, changes) {
            Ok(watched) => {
                let directory = self.watched.entry(watched).or_insert_with(|| Directory {
                    path: directory.to_owned(),
                    steps: HashSet::new(),
                });
                directory.steps.insert(name.to_owned());
                Ok(())
            }
            // A step before it is seen when it comes.
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether what has happened next matters.
    async fn event(&mut self) -> io::Result<bool> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = Reader::new(self.inotify.get_ref(), &mut buffer);
            match reader.next() {
                Ok(event) => return Ok(self.matters(&event) | self.rest_matters(&mut reader)),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Of what was read along.
    fn rest_matters(&self, reader: &mut Reader<'_, &OwnedFd>) -> bool {
        let mut matters = false;
        while !reader.is_buffer_empty()
            && let Ok(event) = reader.next()
        {
            matters |= self.matters(&event);
        }
        matters
    }

    fn matters(&self, event: &inotify::Event<'_>) -> bool {
        let events = event.events();
        let (Some(directory), Some(name)) = (self.watched.get(&event.wd()), event.file_name())
        else {
            // Some were lost, or a directory is gone.
            return events.intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::IGNORED);
        };
        let name = OsStr::from_bytes(name.to_bytes());
        directory.steps.contains(name)
            && !(events.contains(ReadFlags::CREATE) && will_be_written(&directory.path.join(name)))
    }
}

/// A file is there before what is in it, and closed when all of that is. A link is there with what it leads to.
fn will_be_written(path: &Path) -> bool {
    let found = fs::symlink_metadata(path);
    found.is_ok_and(|found| found.is_file() && found.nlink() == 1)
}

fn steps(path: &Path) -> VecDeque<OsString> {
    let steps = path.components().filter_map(|step| match step {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    steps.collect()
}
