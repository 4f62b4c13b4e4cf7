//! A test that cannot run on this machine.

/// Says why a test is left out; fails instead where `PILAB_REQUIRE` names its level.
pub fn skip(level: &str, why: &str) {
    let required = std::env::var("PILAB_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|one| one == level), "PILAB_REQUIRE has {level}, but {why}");
    eprintln!("skipped: {why}");
}
