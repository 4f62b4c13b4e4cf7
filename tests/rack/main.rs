//! The rack level: simulated boards that boot by DHCP, TFTP and HTTP from the real servers, with their real ports, on wires of
//! their own, and then run what they got on QEMU. Needs root and the image of `pilab image build --arch aarch64`;
//! `PILAB_RACK_E2E=1` asks for it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and say why they skip"
)]

mod coordinator;
mod faults;
mod library;
mod night;
#[expect(dead_code, unreachable_pub, reason = "shared with the tests that need no kernel")]
#[path = "../it/support/program.rs"]
mod program;
mod proxy;
#[expect(unreachable_pub, reason = "shared with the tests that need no kernel")]
#[path = "../it/support/script.rs"]
mod script;
#[expect(dead_code, unreachable_pub, reason = "shared with the tests that need no kernel")]
#[path = "../it/support/store.rs"]
mod store;
mod stub;
mod uefi;

/// One at a time: each boots kernels, and measures nothing that another would disturb.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Says why a test is left out, or fails where that must not be.
fn skip(why: &str) {
    let required = std::env::var("PILAB_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|level| level == "rack"), "PILAB_REQUIRE has rack, but {why}");
    eprintln!("skipped: {why}");
}

/// None, with the reason printed, where kernels are not to be booted.
async fn turn() -> Option<tokio::sync::MutexGuard<'static, ()>> {
    if std::env::var_os("PILAB_RACK_E2E").is_none() {
        skip("PILAB_RACK_E2E is not set");
        return None;
    }
    if !rustix::process::geteuid().is_root() {
        skip("network namespaces need root");
        return None;
    }
    Some(TURN.lock().await)
}

/// The last bytes of addresses and names that no other test of this machine has.
fn net() -> u8 {
    u8::try_from(std::process::id() % 200).unwrap()
}
