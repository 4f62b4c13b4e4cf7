//! Devices of a lab in the tests of other projects: reserved, used, and given back by themselves.
//!
//! ```no_run
//! use pilab::model::boot::BootStage;
//! use pilab::testing::{Lab, Needs};
//! use std::time::Duration;
//!
//! #[tokio::test]
//! async fn the_board_comes_up() {
//!     let lab = Lab::from_env().await.unwrap();              // PILAB_LOGIN=ci.json cargo test
//!     let bench = lab.reserve(Needs::one("dut")).await.unwrap();
//!     let dut = bench.device("dut").unwrap();
//!     dut.power_cycle().await.unwrap();
//!     dut.wait_stage(BootStage::Agent, Duration::from_secs(120)).await.unwrap();
//!     assert!(dut.ping(Duration::from_secs(10)).await.unwrap().uptime_ms > 0);
//! }   // The devices go back here, also when an assertion fails, and when the process is killed.
//! ```
//!
//! A [`Bench`] is a lease that is held by this process: it says that it lives every few seconds, and the lab takes the
//! devices back when it does not, or when the bench is dropped. Everything goes over NATS, as the login permits.

mod bench;
mod device;
mod error;
mod lab;

pub use bench::Bench;
pub use device::{Device, Output};
pub use error::TestingError;
pub use lab::{Lab, Needs};
