//! What the script says is what a session tells.

use super::*;

async fn outputs(session: &mut ExecSession) -> (String, Result<ExitStatus, Error>) {
    let mut text = String::new();
    loop {
        match session.next().await {
            Ok(Some(ExecEvent::Output { bytes, .. })) => {
                text.push_str(std::str::from_utf8(&bytes).unwrap())
            }
            Ok(Some(ExecEvent::Exited(status))) => return (text, Ok(status)),
            Ok(None) => panic!("the exit comes first"),
            Err(error) => return (text, Err(error)),
        }
    }
}

#[tokio::test]
async fn a_script_is_played_and_its_end_told_once() {
    let executor = Scripted::new([
        Script::new().stdout("a").stderr("b").exit(3),
        Script::new().stdout("c").lose(),
    ]);
    let mut session = executor.start(Command::new("one")).await.unwrap();
    assert_eq!(outputs(&mut session).await.0, "ab");
    assert_eq!(session.next().await.unwrap(), None);
    let (text, end) = outputs(&mut executor.start(Command::new("two")).await.unwrap()).await;
    assert!(text == "c" && matches!(end, Err(Error::Lost { .. })));
    assert!(matches!(executor.start(Command::new("three")).await, Err(Error::NotStarted { .. })));
    assert_eq!(executor.started().len(), 2);
}

#[tokio::test]
async fn attaching_goes_on_at_the_position_and_repeats_nothing() {
    let script = Script::new().stdout("hello ").stderr("err").stdout("world");
    let executor = Scripted::new([script]);
    let session = executor.start(Command::new("x")).await.unwrap();
    let handle = session.handle().unwrap().clone();
    let whole = ("hello ".len() + "world".len()) as u64;
    for stdout_bytes in 0..=whole {
        for stderr_bytes in 0..=3 {
            let from = Position { stdout_bytes, stderr_bytes };
            let mut again = executor.attach(&handle, from).await.unwrap();
            let (mut out, mut err) = (String::new(), String::new());
            while let Some(event) = again.next().await.unwrap() {
                if let ExecEvent::Output { stream, bytes, .. } = event {
                    let to = if stream == OutputStream::Stdout { &mut out } else { &mut err };
                    to.push_str(std::str::from_utf8(&bytes).unwrap());
                }
            }
            assert_eq!(out, "hello world"[usize::try_from(stdout_bytes).unwrap()..]);
            assert_eq!(err, "err"[usize::try_from(stderr_bytes).unwrap()..]);
        }
    }
    let unknown = executor.attach(&ExecHandle("7".into()), Position::default()).await;
    assert!(matches!(unknown, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn a_deaf_command_hears_only_the_last_word() {
    let executor = Scripted::new([Script::new().until_signalled().deaf()]);
    let mut session = executor.start(Command::new("x")).await.unwrap();
    let control = session.control();
    control.signal(Signal::Terminate).await.unwrap();
    control.signal(Signal::Kill).await.unwrap();
    assert_eq!(outputs(&mut session).await.1.unwrap(), ExitStatus::Signal(9));
    assert_eq!(executor.signals(), [Signal::Terminate, Signal::Kill]);
}
