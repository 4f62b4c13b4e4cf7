//! The simulator of `benches/leases` over as many events as a test has time for.

#[path = "../../benches/leases/simulator/mod.rs"]
mod simulator;

#[test]
fn what_must_hold_of_leases_holds_under_random_events() {
    let tally = simulator::run(1, 20_000);
    println!("{tally:#?}");
    for longest in [tally.longest, tally.longest_booked] {
        assert!(longest.thousandths > 0 && longest.wait <= longest.bound);
    }
    assert!(tally.served_after_waiting > 0 && tally.crashes > 0 && tally.reboots > 0);
}
