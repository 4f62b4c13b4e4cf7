//! Commands over SSH: against a server in this process, and against the host's sshd where there is one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::agent::lab::skip;
use pilab::device::ports::{PortError, REACH_OUTPUT_LIMIT, Reach, ReachOutput, ReachTarget};
use pilab::model::id::DeviceId;
use pilab::model::lease::FencingToken;
use pilab::model::wiring::CardLogin;
use pilab::ssh::{KeyPair, SshError, SshReach, Way, generate_key};
use pilab::support::command::Command;
use russh::keys::PrivateKey;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PATIENCE: Duration = Duration::from_secs(30);

fn token(sequence: u64) -> FencingToken {
    FencingToken { epoch: 1, sequence }
}

fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(|&word| word.to_owned()).collect()
}

/// A server that lets one key in and answers a few commands.
#[derive(Clone)]
struct Server {
    client: russh::keys::PublicKey,
    user: String,
}

/// How a login is asked whether it is root's, or can become so.
const WHO: &[u8] = b"sudo -n true";

/// What a device on which `user` is a stranger (1000) says to that: its sudo lets `pi` alone in unasked.
async fn who(user: &str, line: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let programs = [
        ("id", if user == "root" { "echo 0" } else { "echo 1000" }),
        ("sudo", if user == "pi" { "exit 0" } else { "echo 'sudo: a password is required' >&2; exit 1" }),
    ];
    for (name, does) in programs {
        pilab::support::atomic_file::write(
            &dir.path().join(name),
            format!("#!/bin/sh\n{does}\n").as_bytes(),
            0o700,
        )
        .unwrap();
    }
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let told = Command::new("/bin/sh").args(["-c", line]).env("PATH", &path).build().output().await.unwrap();
    told.stdout
}

impl Handler for Server {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        let good =
            ["root", "pi", "joe"].contains(&user) && key.public_key.key_data() == self.client.key_data();
        user.clone_into(&mut self.user);
        Ok(if good { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        line: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_success(channel)?;
        if line.windows(WHO.len()).any(|part| part == WHO) {
            session.data(channel, who(&self.user, &String::from_utf8_lossy(line)).await)?;
            session.exit_status_request(channel, 0)?;
            session.eof(channel)?;
            return session.close(channel);
        }
        match line {
            b"hang" => return Ok(()),
            b"vanish" => return Err(russh::Error::Disconnect),
            b"flood" => {
                for _ in 0..3 {
                    session.data(channel, vec![b'x'; REACH_OUTPUT_LIMIT / 2])?;
                }
            }
            line => {
                session.data(channel, line.to_vec())?;
                session.extended_data(channel, 1, b"to stderr".to_vec())?;
            }
        }
        session.exit_status_request(channel, 7)?;
        session.eof(channel)?;
        session.close(channel)
    }
}

/// A server that runs until it is dropped, and counts its connections.
struct Running {
    target: ReachTarget,
    port: u16,
    connections: Arc<AtomicUsize>,
    _tasks: tokio::task::JoinSet<()>,
}

async fn start() -> Running {
    let [host, client] = ["host", "client"].map(|name| generate_key(name).unwrap());
    let config = Arc::new(russh::server::Config {
        keys: vec![PrivateKey::from_openssh(&host.private).unwrap()],
        auth_rejection_time: Duration::ZERO,
        ..russh::server::Config::default()
    });
    let server =
        Server { client: russh::keys::PublicKey::from_openssh(&client.public).unwrap(), user: String::new() };
    let listener = TcpListener::bind((HOME, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut sessions = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let (config, server) = (Arc::clone(&config), server.clone());
            sessions.spawn(async move {
                if let Ok(session) = russh::server::run_stream(config, stream, server).await {
                    let _ = session.await;
                }
            });
        }
    });
    Running { target: target(&host, &client), port, connections, _tasks: tasks }
}

fn target(host: &KeyPair, client: &KeyPair) -> ReachTarget {
    ReachTarget { address: HOME, host_key: host.public.clone(), client_key: client.private.clone() }
}

fn ssh_error(result: Result<ReachOutput, PortError>) -> SshError {
    match result {
        Err(PortError::Failed { source, .. }) => *source.downcast::<SshError>().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn commands_share_one_connection_and_come_back_whole() {
    let server = start().await;
    let reach = SshReach::on_port(server.port);
    let command = words(&["echo", "a b", "it's"]);
    for _ in 0..3 {
        let output = reach.run(token(1), &server.target, &command, PATIENCE).await.unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), r"echo 'a b' 'it'\''s'");
        assert_eq!((output.exit_code, output.stderr.as_slice()), (Some(7), b"to stderr".as_slice()));
    }
    let flood = reach.run(token(1), &server.target, &words(&["flood"]), PATIENCE).await.unwrap();
    assert_eq!((flood.exit_code, flood.stdout.len()), (Some(7), REACH_OUTPUT_LIMIT));
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);

    let late = reach.run(token(0), &server.target, &command, PATIENCE).await;
    assert!(matches!(late, Err(PortError::Fenced(_))), "{late:?}");
}

#[tokio::test]
async fn a_lost_connection_is_told_and_the_next_command_has_a_new_one() {
    let server = start().await;
    let reach = SshReach::on_port(server.port);
    let lost = reach.run(token(1), &server.target, &words(&["vanish"]), PATIENCE).await;
    assert!(matches!(ssh_error(lost), SshError::Lost));
    reach.run(token(1), &server.target, &words(&["true"]), PATIENCE).await.unwrap();
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_command_that_does_not_end_is_given_up() {
    let server = start().await;
    let reach = SshReach::on_port(server.port);
    reach.run(token(1), &server.target, &words(&["true"]), PATIENCE).await.unwrap();
    let bound = Duration::from_millis(200);
    let hung = reach.run(token(1), &server.target, &words(&["hang"]), bound).await;
    assert!(matches!(ssh_error(hung), SshError::TimedOut { timeout } if timeout == bound));
}

#[tokio::test]
async fn wrong_keys_are_refused_on_both_sides() {
    let server = start().await;
    let other = generate_key("other").unwrap();
    let reach = SshReach::on_port(server.port);
    let stranger = ReachTarget { host_key: other.public.clone(), ..server.target.clone() };
    let refused = reach.run(token(1), &stranger, &words(&["true"]), PATIENCE).await;
    assert!(matches!(ssh_error(refused), SshError::HostKeyMismatch { .. }));
    let unknown = ReachTarget { client_key: other.private, ..server.target.clone() };
    let refused = reach.run(token(1), &unknown, &words(&["true"]), PATIENCE).await;
    assert!(matches!(ssh_error(refused), SshError::AuthRefused { .. }));
    let broken = ReachTarget { host_key: "ssh-ed25519 x".to_owned(), ..server.target.clone() };
    let refused = reach.run(token(1), &broken, &words(&["true"]), PATIENCE).await;
    assert!(matches!(ssh_error(refused), SshError::Key { which: "host", .. }));
}

#[tokio::test]
async fn nobody_there_is_told_at_the_deadline() {
    let listener = TcpListener::bind((HOME, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let [host, client] = ["host", "client"].map(|name| generate_key(name).unwrap());
    let bound = Duration::from_millis(700);
    let nobody =
        SshReach::on_port(port).run(token(1), &target(&host, &client), &words(&["true"]), bound).await;
    assert!(matches!(ssh_error(nobody), SshError::Unreachable { .. }));
}

#[tokio::test]
async fn an_ordinary_user_becomes_root_by_sudo_or_is_told_what_to_do() {
    let server = start().await;
    let dir = tempfile::tempdir().unwrap();
    let identity = dir.path().join("key");
    pilab::support::atomic_file::write(&identity, server.target.client_key.as_bytes(), 0o600).unwrap();
    let connect = async |user: &str| {
        let login = CardLogin {
            address: HOME,
            port: server.port,
            user: user.to_owned(),
            identity: identity.clone(),
            lab_address: None,
        };
        let way = Way { device: DeviceId::new("lab-pi").unwrap(), login, pin: dir.path().join("pin") };
        let shown = way.glance().await.unwrap();
        way.connect_to(&shown, PATIENCE).await
    };
    for (user, line) in [("root", "echo 'a b'"), ("pi", "sudo -n -- echo 'a b'")] {
        let remote = connect(user).await.unwrap();
        let output = remote.run(&words(&["echo", "a b"]), PATIENCE).await.unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), line, "{user}");
    }
    let error = connect("joe").await.err().unwrap();
    assert!(matches!(&error, SshError::NoRoot { user, .. } if user == "joe"), "{error:?}");
    let hint = error.hint().unwrap();
    assert!(hint.contains("echo 'joe ALL=(ALL) NOPASSWD: ALL' | sudo tee /etc/sudoers.d/pilab"), "{hint}");
}

const SSHD: &str = "/usr/sbin/sshd";

#[tokio::test]
async fn the_hosts_sshd_is_understood() {
    if !std::path::Path::new(SSHD).exists() || !rustix::process::geteuid().is_root() {
        // Set-up installs no server that a laptop would then run; that of a device is met on virtual machines.
        return skip("sshd", &format!("needs {SSHD} and root"));
    }
    let dir = tempfile::tempdir().unwrap();
    let [host, client] = ["host", "client"].map(|name| generate_key(name).unwrap());
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        pilab::support::atomic_file::write(&path, text.as_bytes(), 0o600).unwrap();
        path.display().to_string()
    };
    let key = write("host_key", &host.private);
    let authorized = write("authorized_keys", &client.public);
    std::fs::create_dir_all("/run/sshd").unwrap();
    let listener = std::net::TcpListener::bind((HOME, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let options = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {key}\nAuthorizedKeysFile {authorized}\nPermitRootLogin yes\n\
         PidFile none\nStrictModes no\nUsePAM no\n"
    );
    let config = write("sshd_config", &options);
    let _sshd = Command::new(SSHD).args(["-D", "-e", "-f", &config]).build().spawn().unwrap();
    let reach = SshReach::on_port(port);
    let target = target(&host, &client);
    let script = words(&["sh", "-c", "printf '%s' \"$1\"; printf err >&2; exit 3", "sh", "a 'b' $c"]);
    let output = reach.run(token(1), &target, &script, PATIENCE).await.unwrap();
    let expected = ReachOutput { exit_code: Some(3), stdout: b"a 'b' $c".to_vec(), stderr: b"err".to_vec() };
    assert_eq!(output, expected);
    let killed = reach.run(token(1), &target, &words(&["sh", "-c", "kill -9 $$"]), PATIENCE).await.unwrap();
    assert_ne!(killed.exit_code, Some(0));
}
