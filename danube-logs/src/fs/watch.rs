//! Logs that another process writes: one thread for all of them looks when the system says that
//! something happened, and every now and then for what it does not say.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use danube_core::{ByteRange, JobId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::sync::watch;
use tokio::time::Instant;

use super::dir::{Dir, Stored, io_error};
use super::hot::{HOT_BYTES, Hot};
use crate::{Error, LogPhase, LogStat};

/// How often everything is looked at although nothing was said: some file systems say nothing, and nobody is told
/// that a lock was given up by a process that was stopped in between.
const ROUND: Duration = Duration::from_millis(250);

/// The same where the system has no more notifications to give.
const ROUND_UNTOLD: Duration = Duration::from_millis(50);

/// A log that is written in single lines at full speed is looked at this often and no more: a few percent of
/// a processor.
const PAUSE: Duration = Duration::from_micros(250);

/// How long a log stays watched that nobody waits for: a follower reads in between.
const LINGER: Duration = Duration::from_secs(2);

/// Watches the logs that somebody waits for, and only while somebody does.
#[derive(Debug)]
pub(super) struct Watcher {
    dir: Arc<Dir>,
    /// Whether the system's notifications are asked for at all.
    notify: bool,
    /// Locked for moments only: runtime threads look in here.
    watched: Mutex<Watching>,
}

#[derive(Debug, Default)]
struct Watching {
    logs: HashMap<JobId, Arc<Watched>>,
    /// What the thread listens on; none where it has to look by itself.
    notifications: Option<Arc<OwnedFd>>,
    /// By the number that notifications carry.
    names: HashMap<i32, JobId>,
    /// The number of the directory.
    dir: Option<i32>,
    /// Whether the thread runs. It ends when there is nothing to watch.
    running: bool,
}

/// A log that somebody waits for.
#[derive(Debug)]
pub(super) struct Watched {
    seen: Mutex<Seen>,
    /// Ticks whenever what was seen changes.
    news: watch::Sender<()>,
}

#[derive(Debug)]
struct Seen {
    /// `None` where looking failed: who waits looks again, and is told why.
    stat: Option<LogStat>,
    file: (u64, u64),
    hot: Hot,
    used: Instant,
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was seen last, at most a round ago.
    pub(super) fn stat(&self) -> Option<LogStat> {
        let mut seen = self.lock();
        seen.used = Instant::now();
        seen.stat.clone()
    }

    pub(super) fn read_hot(&self, range: ByteRange) -> Option<Bytes> {
        self.lock().hot.read(range)
    }
}

impl Watcher {
    pub(super) fn new(dir: Arc<Dir>, notify: bool) -> Arc<Self> {
        Arc::new(Self { dir, notify, watched: Mutex::default() })
    }

    /// Ends the thread: there is nobody left who could wait. It is not waited for.
    pub(super) fn close(&self) {
        let mut watching = self.lock();
        watching.logs.clear();
        if let (Some(fd), Some(dir)) = (&watching.notifications, watching.dir) {
            // That a watch is gone is told too.
            let _ = inotify::remove_watch(fd, dir);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Watching> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A log that is watched already. The receiver keeps it watched.
    pub(super) fn find(&self, log: &JobId) -> Option<(Arc<Watched>, watch::Receiver<()>)> {
        let watching = self.lock();
        let found = watching.logs.get(log)?;
        Some((found.clone(), found.news.subscribe()))
    }

    /// The last bytes of a log, if it is watched and they are among them.
    pub(super) fn read_hot(&self, log: &JobId, range: ByteRange) -> Option<Bytes> {
        let found = self.lock().logs.get(log).cloned()?;
        found.read_hot(range)
    }

    /// Says that a log is not what it was; who waits for it looks anew.
    pub(super) fn forget(&self, log: &JobId) {
        let Some(found) = self.lock().logs.get(log).cloned() else { return };
        let mut seen = found.lock();
        seen.stat = None;
        seen.hot.clear();
        drop(seen);
        found.news.send_replace(());
    }

    /// Begins to watch a log. Blocks.
    pub(super) fn watch(
        self: &Arc<Self>,
        log: &JobId,
    ) -> Result<(Arc<Watched>, watch::Receiver<()>), Error> {
        if let Some(found) = self.find(log) {
            return Ok(found);
        }
        self.start().map_err(|e| io_error(log, "watch", e))?;
        // First listen, then look: what happens in between is told.
        self.listen(log);
        let stat = self.dir.stat(log)?;
        let file = self.file(log).map_or((0, 0), |(_, file)| file);
        let seen = Seen { stat: Some(stat), file, hot: Hot::default(), used: Instant::now() };
        let new = Watched { seen: Mutex::new(seen), news: watch::Sender::new(()) };
        let mut watching = self.lock();
        let found = watching.logs.entry(log.clone()).or_insert_with(|| Arc::new(new)).clone();
        let news = found.news.subscribe();
        drop(watching);
        // The thread may have found nothing to watch meanwhile.
        self.start().map_err(|e| io_error(log, "watch", e))?;
        Ok((found, news))
    }

    /// Starts the thread if it does not run.
    fn start(self: &Arc<Self>) -> io::Result<()> {
        let mut watching = self.lock();
        if watching.running {
            return Ok(());
        }
        // Instances are scarce (128 for a user by default): then it looks by itself.
        let notifications = self.notify.then(|| {
            inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
                .inspect_err(|error| tracing::warn!(%error, "logs of other processes are polled"))
        });
        watching.notifications = notifications.and_then(Result::ok).map(Arc::new);
        watching.names.clear();
        // What is put in the place of a file, and what is deleted; nothing of what is written.
        let flags = WatchFlags::MOVED_TO | WatchFlags::DELETE;
        let dir =
            watching.notifications.as_ref().map(|fd| inotify::add_watch(fd, &self.dir.0, flags));
        watching.dir = dir.and_then(Result::ok);
        let logs: Vec<JobId> = watching.logs.keys().cloned().collect();
        let this = self.clone();
        std::thread::Builder::new().name("danube-logs".into()).spawn(move || this.run())?;
        watching.running = true;
        drop(watching);
        for log in &logs {
            self.listen(log);
        }
        Ok(())
    }

    fn listen(&self, log: &JobId) {
        let Some(fd) = self.lock().notifications.clone() else { return };
        let flags = WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::DONT_FOLLOW;
        // A log that has no text any more is sealed. Without a watch left, rounds must do.
        if let Ok(number) = inotify::add_watch(&fd, self.dir.text_path(log), flags) {
            self.lock().names.insert(number, log.clone());
        }
    }

    fn run(&self) {
        let mut next_round = Instant::now();
        loop {
            let fd = self.lock().notifications.clone();
            let mut told = HashMap::new();
            match &fd {
                Some(fd) => {
                    let left = next_round.saturating_duration_since(Instant::now());
                    wait_for(fd, left);
                    if !self.hear(fd, &mut told) {
                        // Too much happened to be told.
                        next_round = Instant::now();
                    }
                }
                None => {
                    std::thread::park_timeout(next_round.saturating_duration_since(Instant::now()))
                }
            }
            if Instant::now() >= next_round || self.lock().logs.is_empty() {
                next_round = Instant::now() + if fd.is_some() { ROUND } else { ROUND_UNTOLD };
                if !self.round() {
                    return;
                }
            } else if !told.is_empty() {
                for (log, closely) in &told {
                    self.look(log, *closely);
                }
                std::thread::park_timeout(PAUSE);
            }
        }
    }

    /// Looks at everything, and lets go of what nobody waits for. False when nothing is left.
    fn round(&self) -> bool {
        let logs: Vec<JobId> = {
            let mut watching = self.lock();
            let Watching { logs, names, notifications, running, dir: _ } = &mut *watching;
            logs.retain(|_, log| {
                log.news.receiver_count() > 0 || log.lock().used.elapsed() < LINGER
            });
            names.retain(|number, log| {
                let keep = logs.contains_key(log);
                if !keep && let Some(fd) = notifications {
                    let _ = inotify::remove_watch(fd, *number);
                }
                keep
            });
            if logs.is_empty() {
                *running = false;
                *notifications = None;
                return false;
            }
            logs.keys().cloned().collect()
        };
        for log in &logs {
            self.look(log, true);
        }
        true
    }

    /// Collects what happened to which log: whether it only grew, or must be looked at closely. False where
    /// notifications were lost.
    fn hear(&self, fd: &OwnedFd, told: &mut HashMap<JobId, bool>) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(fd, &mut buffer);
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return true,
                Err(error) => {
                    tracing::warn!(%error, "logs of other processes are polled from now on");
                    self.lock().notifications = None;
                    return false;
                }
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                return false;
            }
            let mut watching = self.lock();
            let log = match event.file_name() {
                // In the directory: `<job>.idx`, `<job>.log`, `<job>.log.zst`.
                Some(name) => name.to_str().ok().and_then(|name| {
                    let id = [".log.zst", ".log", ".idx"].iter().find_map(|e| name.strip_suffix(e));
                    id?.parse().ok().filter(|id| watching.logs.contains_key(id))
                }),
                None if event.events().contains(ReadFlags::IGNORED) => {
                    watching.names.remove(&event.wd())
                }
                None => watching.names.get(&event.wd()).cloned(),
            };
            drop(watching);
            if let Some(log) = log {
                *told.entry(log).or_default() |= event.events() != ReadFlags::MODIFY;
            }
        }
    }

    /// The length of a log that lies there as text, and which file it is.
    fn file(&self, log: &JobId) -> Option<(u64, (u64, u64))> {
        let meta = fs::symlink_metadata(self.dir.text_path(log)).ok().filter(fs::Metadata::is_file);
        meta.map(|meta| (meta.len(), (meta.dev(), meta.ino())))
    }

    fn look(&self, log: &JobId, closely: bool) {
        let Some(watched) = self.lock().logs.get(log).cloned() else { return };
        let file = self.file(log);
        let (before, is_same) = {
            let seen = watched.lock();
            (seen.stat.clone(), file.is_some_and(|(_, file)| file == seen.file))
        };
        let stat = match (&before, file) {
            (Some(before), Some((len, _))) if is_same && !closely => {
                Some(LogStat { len, ..before.clone() })
            }
            _ => self.dir.stat(log).ok(),
        };
        if !is_same && file.is_some() {
            self.listen(log);
        }
        if stat == before && stat.is_some() && is_same {
            return;
        }
        // What was added is read once, for all.
        let grown = match (&before, &stat) {
            (Some(before), Some(stat)) if is_same && stat.phase == LogPhase::Open => {
                ByteRange::new(before.len, stat.len)
            }
            _ => ByteRange::new(0, 0),
        };
        let added = match grown.len() {
            1.. if grown.len() <= HOT_BYTES as u64 => match self.dir.open_text(log, false) {
                Ok(Some(file)) => Stored::Text(file).read(grown).ok(),
                _ => None,
            },
            _ => None,
        };
        let mut seen = watched.lock();
        let is_shorter =
            before.is_some_and(|before| stat.as_ref().is_none_or(|stat| stat.len < before.len));
        if !is_same || is_shorter {
            seen.hot.clear();
        }
        if let Some(added) = added.filter(|added| added.len() as u64 == grown.len()) {
            seen.hot.push(grown.start, &added);
        }
        seen.stat = stat;
        seen.file = file.map_or((0, 0), |(_, file)| file);
        drop(seen);
        watched.news.send_replace(());
    }
}

/// Waits for a notification.
fn wait_for(fd: &OwnedFd, at_most: Duration) {
    let timeout = Timespec {
        tv_sec: at_most.as_secs().try_into().unwrap_or(1),
        tv_nsec: at_most.subsec_nanos().into(),
    };
    // Whatever it says: what there is, is read next.
    let _ = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout));
}
