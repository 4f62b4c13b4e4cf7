//! An emulated Raspberry Pi 3: its serial port, where commands are given, and its pins, which are read from outside.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, its helpers too, and says why it is skipped"
)]

use pilab::support::command::Command;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::process::Child;
use tokio::time::{Instant, timeout};

/// Until then it must have done what a test waits for: it boots in half a minute on a quiet machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Where GPIO registers are in a BCM2837's memory (BCM2835 ARM Peripherals §6.1, at the ARM's address of a Pi 3), and how
/// many words are read: up to GPLEV0.
const REGISTERS: &str = "xp /14wx 0x3f200000";
const GPLEV0: usize = 0x34 / 4;

/// All pins at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pins([u32; GPLEV0 + 1]);

impl Pins {
    pub(crate) fn is_high(&self, pin: usize) -> bool {
        self.0[GPLEV0] >> pin & 1 == 1
    }

    /// Three bits a pin, ten pins a word; 001 is an output.
    pub(crate) fn is_output(&self, pin: usize) -> bool {
        self.0[pin / 10] >> (pin % 10 * 3) & 0b111 == 0b001
    }
}

pub(crate) struct Board {
    serial: BufReader<UnixStream>,
    monitor: Monitor,
    process: Child,
    _dir: TempDir,
}

/// QEMU's machine protocol.
pub(crate) struct Monitor {
    lines: tokio::io::Lines<BufReader<tokio::net::unix::OwnedReadHalf>>,
    to: OwnedWriteHalf,
}

impl Monitor {
    async fn connect(path: &Path) -> Self {
        let (from, to) = connect(path).await.into_split();
        let mut monitor = Self { lines: BufReader::new(from).lines(), to };
        monitor.ask(r#"{"execute": "qmp_capabilities"}"#).await;
        monitor
    }

    async fn ask(&mut self, request: &str) -> serde_json::Value {
        self.to.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        loop {
            let line = timeout(PATIENCE, self.lines.next_line()).await.expect("an answer").unwrap();
            let answer: serde_json::Value = serde_json::from_str(&line.expect("QEMU is there")).unwrap();
            if let Some(answer) = answer.get("return") {
                return answer.clone();
            }
            assert!(answer.get("error").is_none(), "{request}: {answer}");
        }
    }

    /// Reads the pins.
    pub(crate) async fn pins(&mut self) -> Pins {
        let request = serde_json::json!({
            "execute": "human-monitor-command", "arguments": { "command-line": REGISTERS }
        });
        let answer = self.ask(&request.to_string()).await;
        let words = answer.as_str().unwrap().split_whitespace().filter_map(|word| word.strip_prefix("0x"));
        let words: Vec<u32> = words.map(|word| u32::from_str_radix(word, 16).unwrap()).collect();
        Pins(words.try_into().unwrap_or_else(|words| panic!("{answer}: {words:?}")))
    }
}

pub(crate) async fn connect(path: &Path) -> UnixStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{}: {error}", path.display()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Where `tests/pi/make` puts what is booted.
pub(crate) fn made() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    Path::new(env!("CARGO_MANIFEST_DIR")).join(target).join("emulated-pi")
}

/// Prints why a test of this level cannot run; fails it when the level is required.
pub(crate) fn skip(why: &str) {
    let required = std::env::var("PILAB_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|level| level == "rack"), "the rack level is required: {why}");
    eprintln!("skipped: {why}");
}

impl Board {
    /// Switches it on and waits until it takes commands.
    pub(crate) async fn boot() -> Option<Self> {
        let (made, dir) = (made(), tempfile::tempdir().unwrap());
        let file = |name: &str| made.join(name).into_os_string();
        if !made.join("initrd").exists() {
            skip("there is nothing to boot: run tests/pi/make");
            return None;
        }
        let socket = |name: &str| format!("unix:{}/{name},server=on,wait=off", dir.path().display());
        // Strict kernels keep registers to themselves; with `relaxed` they may be mapped, as /dev/gpiomem of a Raspberry
        // Pi's own kernels lets one.
        let arguments = "console=ttyS1,115200 quiet loglevel=3 iomem=relaxed rdinit=/lib/systemd/systemd \
                         systemd.show_status=no systemd.log_target=null panic=-1";
        let command = Command::new("qemu-system-aarch64")
            .args(["-M", "raspi3b", "-display", "none", "-no-reboot", "-nodefaults", "-append", arguments])
            .args(["-kernel".into(), file("vmlinuz"), "-dtb".into(), file("board.dtb")])
            .args(["-initrd".into(), file("initrd")])
            // The second of its serial ports is the one on the header.
            .args(["-serial", "null", "-serial", &socket("serial"), "-qmp", &socket("qmp")]);
        let process = match command.build().spawn() {
            Ok(process) => process,
            Err(error) => {
                skip(&format!("qemu-system-aarch64 cannot be started: {error}"));
                return None;
            }
        };
        let serial = BufReader::new(connect(&dir.path().join("serial")).await);
        let monitor = Monitor::connect(&dir.path().join("qmp")).await;
        let mut board = Self { serial, monitor, process, _dir: dir };
        until(&mut board.serial, "<<ready>>").await;
        Some(board)
    }

    /// Runs a shell command on it; its output, which must come with this exit code.
    pub(crate) async fn ends(&mut self, command: &str, code: u8) -> String {
        ends(&mut self.serial, command, code).await
    }

    /// Runs a shell command on it, which must succeed.
    pub(crate) async fn run(&mut self, command: &str) -> String {
        self.ends(command, 0).await
    }

    pub(crate) async fn pins(&mut self) -> Pins {
        self.monitor.pins().await
    }

    /// Runs a shell command, reading the pins all the while; its output and all that the pins were, each change once.
    pub(crate) async fn watched(&mut self, command: &str) -> (String, Vec<Pins>) {
        let (monitor, mut seen) = (&mut self.monitor, Vec::new());
        let running = ends(&mut self.serial, command, 0);
        tokio::pin!(running);
        loop {
            let pins = monitor.pins().await;
            if seen.last() != Some(&pins) {
                seen.push(pins);
            }
            if let Ok(output) = timeout(Duration::ZERO, &mut running).await {
                return (output, seen);
            }
        }
    }

    /// Switches it off.
    pub(crate) async fn off(mut self) {
        self.process.kill().await.unwrap();
    }
}

async fn ends(serial: &mut BufReader<UnixStream>, command: &str, code: u8) -> String {
    serial.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    until(serial, "<<begin>>\n").await;
    let said = until(serial, ">>\n").await;
    let (output, ended) = said.rsplit_once("<<end ").unwrap_or_else(|| panic!("{command}: {said}"));
    assert_eq!(ended.trim_end_matches(">>\n"), code.to_string(), "{command}: {output}");
    output.to_owned()
}

/// Reads until it ends so.
pub(crate) async fn until(serial: &mut BufReader<UnixStream>, end: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !read.ends_with(end.as_bytes()) {
            read.push(serial.read_u8().await.unwrap());
        }
    };
    let in_time = timeout(PATIENCE, reading).await.is_ok();
    let read = String::from_utf8_lossy(&read).into_owned();
    assert!(in_time, "waited for {end:?}: {read}");
    read
}
