//! The process between the owner and a command, which ends the command when the owner ends.
//!
//! The owner starts its own executable again as the guardian, with one end of a socket pair as
//! standard input and the command's pipes as standard output and error. Over the socket it sends
//! the command (so arguments and variables stand in nobody's `argv`), then single bytes that ask
//! for signals. The guardian answers with how starting went and, at the end, how the command ended.
//! The socket's end means that the owner is dead, by whatever death: the guardian then kills
//! everything below it. It is a subreaper, so a process that leaves its session or its parents is
//! still found below it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use async_trait::async_trait;
use danube_core::SecretBytes;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{
    Pid, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, set_child_subreaper, setsid,
    wait, waitid,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::local::{TheirEnds, kill_group, not_started};
use crate::session::{Signal, SignalTarget};
use crate::{Command, Error, ExitStatus, Stdin};

/// The only argument of a guardian. Nobody types it by accident.
const GUARDIAN_ARG: &str = "--danube-exec-guardian";

/// The longest command that is sent: arguments and environment of Linux stay below 6 MiB.
const MAX_COMMAND_BYTES: u32 = 16 * 1024 * 1024;

/// Looks at two milliseconds each: five seconds and what the looking takes.
const LOOKS: u32 = 2500;

const STARTED: u8 = b'S';
const NOT_STARTED: u8 = b'N';
const EXITED: u8 = b'X';
const KILLED: u8 = b'K';

const FINISH: u8 = b'f';

/// The proof that [`guardian`] was called first in `main`.
#[derive(Debug, Clone)]
pub struct Guardian(());

/// Call this first in `main`, before any thread and any runtime, with the arguments of the process.
///
/// In a process that was started as a guardian it never returns: it serves its command and exits.
/// Everywhere else it returns the proof that
/// [`LocalProcesses::with_guardian`](crate::LocalProcesses::with_guardian) asks for.
///
/// ```no_run
/// let guardian = danube_exec::guardian(std::env::args_os());
/// let executor = danube_exec::LocalProcesses::with_guardian(guardian);
/// ```
#[must_use]
pub fn guardian(args: impl IntoIterator<Item = OsString>) -> Guardian {
    let mut args = args.into_iter().skip(1);
    if args.next().as_deref() == Some(OsStr::new(GUARDIAN_ARG)) && args.next().is_none() {
        // Whatever goes wrong here, the owner sees the socket close without a status: lost.
        process::exit(if serve().is_ok() { 0 } else { 1 });
    }
    Guardian(())
}

// --- the owner's side -----------------------------------------------------

/// A command behind its guardian.
pub(crate) struct Guarded {
    socket: tokio::net::UnixStream,
    target: Arc<Target>,
    /// Bytes of the answer that have arrived.
    answer: Vec<u8>,
    group: Option<Pid>,
    /// Reaped by the runtime when this is dropped.
    _process: tokio::process::Child,
}

/// The same socket, for single bytes from anywhere.
struct Target(UnixStream);

#[async_trait]
impl SignalTarget for Target {
    async fn signal(&self, signal: Signal) -> Result<(), Error> {
        let byte = match signal {
            Signal::Interrupt => b'i',
            Signal::Terminate => b't',
            Signal::Kill => b'k',
        };
        self.order(byte)
    }
}

impl Target {
    fn order(&self, byte: u8) -> Result<(), Error> {
        match (&self.0).write(&[byte]) {
            Ok(_) => Ok(()),
            // It has ended.
            Err(e)
                if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected) =>
            {
                Ok(())
            }
            Err(e) => Err(lost("its guardian does not listen", e)),
        }
    }
}

impl Guarded {
    pub(crate) async fn start(
        _proof: &Guardian,
        command: &Command,
        theirs: TheirEnds,
    ) -> Result<Self, Error> {
        let cannot = |e| not_started(command, e);
        let (ours, its) = UnixStream::pair().map_err(cannot)?;
        ours.set_nonblocking(true).map_err(cannot)?;
        let target = Arc::new(Target(ours.try_clone().map_err(cannot)?));
        let mut process = process::Command::new("/proc/self/exe");
        // It leaves this session by itself, first of all; a group's leader could not.
        process.arg0("danube-exec-guardian").arg(GUARDIAN_ARG).env_clear();
        process.stdin(OwnedFd::from(its)).stdout(theirs.stdout).stderr(theirs.stderr);
        let process = tokio::process::Command::from(process).spawn().map_err(cannot)?;
        let socket = tokio::net::UnixStream::from_std(ours).map_err(cannot)?;
        let mut guarded =
            Self { socket, target, answer: Vec::new(), group: None, _process: process };
        guarded.send(command, theirs.stdin).await.map_err(|e| lost("its guardian is gone", e))?;
        match guarded.answer().await? {
            (STARTED, pid) => {
                guarded.group = Pid::from_raw(pid);
                Ok(guarded)
            }
            (NOT_STARTED, errno) => Err(cannot(io::Error::from_raw_os_error(errno))),
            (kind, _) => Err(nonsense(kind)),
        }
    }

    pub(crate) fn target(&self) -> Arc<dyn SignalTarget> {
        self.target.clone()
    }

    /// How the command ended. Cancel safe.
    pub(crate) async fn status(&mut self) -> Result<ExitStatus, Error> {
        match self.answer().await? {
            (EXITED, code) => Ok(ExitStatus::Code(code)),
            (KILLED, signal) => Ok(ExitStatus::Signal(signal)),
            (kind, _) => Err(nonsense(kind)),
        }
    }

    /// Has everything killed that the command left behind. Cancel safe.
    pub(crate) async fn sweep(&mut self) -> Result<(), Error> {
        self.target.order(FINISH)?;
        // It closes its end when nothing is left.
        let mut rest = [0];
        while self.socket.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        Ok(())
    }

    async fn send(&mut self, command: &Command, stdin: Option<OwnedFd>) -> io::Result<()> {
        let body = encode(command);
        let len = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
        // The first bytes carry the command's standard input along.
        loop {
            self.socket.writable().await?;
            let sent = self.socket.try_io(tokio::io::Interest::WRITABLE, || {
                let fds: Vec<_> = stdin.iter().map(AsFd::as_fd).collect();
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                let bytes = [IoSlice::new(&len)];
                Ok(sendmsg(&self.socket, &bytes, &mut control, SendFlags::NOSIGNAL)?)
            });
            match sent {
                Ok(4) => break,
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        self.socket.write_all(&body).await
    }

    /// The guardian's next word: a kind and a number. Cancel safe.
    async fn answer(&mut self) -> Result<(u8, i32), Error> {
        while self.answer.len() < 5 {
            let read = self.socket.read_buf(&mut self.answer).await;
            if read.map_err(|e| lost("its guardian is gone", e))? == 0 {
                // Whatever the guardian's death left of the group goes with it.
                if let Some(group) = self.group.take() {
                    let _ = kill_group(group, rustix::process::Signal::KILL);
                }
                return Err(Error::Lost { reason: "its guardian died".into(), source: None });
            }
        }
        let word: Vec<u8> = self.answer.drain(..5).collect();
        Ok((word[0], i32::from_le_bytes([word[1], word[2], word[3], word[4]])))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // A control may live on with its copy of the socket; the connection does not.
        let _ = self.target.0.shutdown(std::net::Shutdown::Both);
    }
}

fn lost(reason: &str, source: io::Error) -> Error {
    Error::Lost { reason: reason.into(), source: Some(Box::new(source)) }
}

fn nonsense(kind: u8) -> Error {
    Error::Lost { reason: format!("its guardian said {kind}, which means nothing"), source: None }
}

// --- the command on the wire ------------------------------------------------

/// Strings with their lengths in front: program, work directory (empty: none), whether its input is
/// a pipe, arguments, then names and values in turn. Both sides are the same executable.
fn encode(command: &Command) -> zeroize::Zeroizing<Vec<u8>> {
    let mut parts: Vec<&[u8]> = vec![command.program.as_bytes()];
    parts.push(command.current_dir.as_ref().map_or(&[], |dir| dir.as_os_str().as_bytes()));
    parts.push(if command.stdin == Stdin::Piped { b"p" } else { b"" });
    let args = (command.args.len() as u64).to_le_bytes();
    parts.push(&args);
    parts.extend(command.args.iter().map(|arg| arg.as_bytes()));
    for (name, value) in &command.env {
        parts.extend([name.as_bytes(), value.expose()]);
    }
    let len = parts.iter().map(|part| part.len() + 8).sum();
    // Its full size at once: growing would leave copies of secrets behind.
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(len));
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<Command> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (len, after) = rest.split_first_chunk::<8>()?;
        let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
        let (part, after) = after.split_at_checked(len)?;
        parts.push(part);
        rest = after;
    }
    let text = |part: &[u8]| OsString::from_vec(part.to_vec());
    let [program, dir, stdin, args, more @ ..] = &parts[..] else { return None };
    let args = usize::try_from(u64::from_le_bytes((*args).try_into().ok()?)).ok()?;
    let (args, env) = more.split_at_checked(args)?;
    let mut command = Command::new(text(program)).with_args(args.iter().map(|arg| text(arg)));
    if !dir.is_empty() {
        command.current_dir = Some(PathBuf::from(text(dir)));
    }
    if !stdin.is_empty() {
        command.stdin = Stdin::Piped;
    }
    for pair in env.chunks(2) {
        let [name, value] = pair else { return None };
        let name = String::from_utf8(name.to_vec()).ok()?;
        command.env.push((name, SecretBytes::new(value.to_vec())));
    }
    Some(command)
}

// --- the guardian's side ----------------------------------------------------

/// Serves one command and returns when nothing of it is left.
fn serve() -> io::Result<()> {
    // Out of the owner's session: a terminal's Ctrl-C is the owner's to answer, and a command that
    // asks the terminal for a password fails at once instead of being stopped for ever.
    let _ = setsid();
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    set_child_subreaper(Some(getpid()))?;
    let mut socket = UnixStream::from(socket);
    let (command, stdin) = receive(&mut socket)?;
    let mut orders = socket.try_clone()?;

    let mut child = command.to_std();
    child.process_group(0).stdin(stdin.map_or_else(Stdio::null, Stdio::from));
    let spawned = child.spawn();
    drop((command, child));
    let pid = match spawned {
        Ok(child) => i32::try_from(child.id()).ok().and_then(Pid::from_raw),
        Err(e) => {
            let errno = e.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error());
            return tell(&mut socket, NOT_STARTED, errno);
        }
    };
    // From here on something runs: whatever fails, it is ended before this returns.
    let attended = (|| {
        // Only the command and its descendants hold its pipes.
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
        // An owner that died this early is noticed by the reader below.
        let _ = tell(&mut socket, STARTED, pid.as_raw_nonzero().get());
        let group = Arc::new(Mutex::new(Some(pid)));
        let signalled = group.clone();
        let obey = move || obey(&mut orders, &signalled);
        let obeying = thread::Builder::new().name("orders".into()).spawn(obey)?;
        let (kind, number) = wait_for(pid, &group)?;
        tell(&mut socket, kind, number)?;
        // What is left in the background may go on writing until the owner has heard enough.
        let _ = obeying.join();
        Ok(())
    })();
    kill_everything_below();
    attended
}

fn tell(socket: &mut UnixStream, kind: u8, number: i32) -> io::Result<()> {
    let mut word = vec![kind];
    word.extend_from_slice(&number.to_le_bytes());
    socket.write_all(&word)
}

fn receive(socket: &mut UnixStream) -> io::Result<(Command, Option<OwnedFd>)> {
    let mut len = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut len)];
    let got = recvmsg(&*socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let stdin = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    socket.read_exact(&mut len[got..])?;
    let len = u32::from_le_bytes(len);
    if got == 0 || len > MAX_COMMAND_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = zeroize::Zeroizing::new(vec![0; len as usize]);
    socket.read_exact(&mut body)?;
    let command = decode(&body).ok_or(io::ErrorKind::InvalidData)?;
    Ok((command, stdin))
}

/// Carries out what the owner asks for, until it says that it has heard enough. The end of the socket
/// means that the owner is dead: everything below is killed, and this process ends.
fn obey(orders: &mut UnixStream, group: &Mutex<Option<Pid>>) {
    let mut byte = [0];
    loop {
        let signal = match orders.read(&mut byte) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Ok(1) => match byte[0] {
                b'i' => Signal::Interrupt,
                b't' => Signal::Terminate,
                b'k' => Signal::Kill,
                _ => return,
            },
            _ => {
                kill_everything_below();
                process::exit(0);
            }
        };
        let group = group.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pid) = *group {
            let _ = kill_group(pid, signal.to_rustix());
        }
        if signal == Signal::Kill {
            for pid in descendants() {
                let _ = kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// Waits for the command itself; orphans that die below are reaped on the way.
fn wait_for(main: Pid, group: &Mutex<Option<Pid>>) -> io::Result<(u8, i32)> {
    loop {
        // Looked at first and reaped under the lock, so that nobody signals a number that has just
        // been given away.
        match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let mut group = group.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((pid, status)) = wait(WaitOptions::NOHANG)? {
            if pid == main {
                *group = None;
                return Ok(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => (EXITED, code),
                    (None, signal) => (KILLED, signal.unwrap_or(9)),
                });
            }
        }
    }
}

/// Kills every descendant and reaps until there is none. A subreaper inherits the orphans, so
/// nothing leaves the tree; what is forked while this looks is found by the next look.
///
/// Bounded: a process that may not be killed (one that became another user) or cannot die yet (one in
/// an uninterruptible call) is given up after [`LOOKS`].
fn kill_everything_below() {
    for _ in 0..LOOKS {
        for pid in descendants() {
            let _ = kill_process(pid, rustix::process::Signal::KILL);
        }
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                // There is nobody left.
                Err(_) => return,
            }
        }
        // A killed process needs a moment to be gone.
        let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        let _ = rustix::event::poll(&mut [], Some(&pause));
    }
}

/// Every process below this one, as `/proc` shows it at this moment.
fn descendants() -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if let Some(parent) = parent_of(&entry.path()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![getpid().as_raw_nonzero().get()];
    while let Some(pid) = open.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        found.extend(below.iter().copied().filter_map(Pid::from_raw));
        open.extend(below);
    }
    found
}

/// The parent's number from `/proc/PID/stat`: the second field after the name, which stands in
/// parentheses and may contain anything, parentheses too.
fn parent_of(dir: &std::path::Path) -> Option<i32> {
    let stat = fs::read(dir.join("stat")).ok()?;
    let after_name = stat.iter().rposition(|&b| b == b')')? + 1;
    let rest = std::str::from_utf8(&stat[after_name..]).ok()?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_survives_the_wire_byte_for_byte() {
        let mut command = Command::new(OsString::from_vec(vec![b'/', 0xff, b'x']))
            .with_args(["", "a b", "\n"])
            .with_env("EMPTY", "")
            .with_env("KEY", SecretBytes::new(vec![0xfe, b'=']))
            .with_current_dir("/tmp")
            .with_stdin(Stdin::Piped);
        let back = decode(&encode(&command)).unwrap();
        assert_eq!(format!("{back:?}"), format!("{command:?}"));
        assert!(back.env.iter().map(|(_, v)| v.expose()).eq([&b""[..], b"\xfe="]));
        command = Command::new("true");
        assert_eq!(format!("{:?}", decode(&encode(&command)).unwrap()), format!("{command:?}"));
    }

    #[test]
    fn no_cut_of_a_command_is_taken_for_one_or_panics() {
        let whole = encode(&Command::new("prog").with_args(["a"]).with_env("K", "v"));
        for len in 0..whole.len() {
            let cut = decode(&whole[..len]);
            // Whole pairs may be missing at the end; nothing else is ever accepted.
            assert!(cut.is_none_or(|command| command.env.is_empty() && command.args.len() == 1));
        }
    }

    #[test]
    fn the_parent_is_found_whatever_a_process_calls_itself() {
        let own = parent_of(std::path::Path::new("/proc/self")).unwrap();
        assert_eq!(Pid::from_raw(own), rustix::process::getppid());
    }
}
