//! Packets in, packets out, byte for byte.

use super::*;
use crate::netboot::dhcp::wire::MAX_PACKET;
use proptest::prelude::*;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 254);
const PI_3: Mac = Mac([0xb8, 0x27, 0xeb, 0, 0, 3]);
const PI_4: Mac = Mac([0xdc, 0xa6, 0x32, 0, 0, 4]);
/// On every Pi 3.
const XID: u32 = 0x26f3_0339;

fn device(name: &str) -> DeviceId {
    DeviceId::new(format!("lab-{name}")).unwrap()
}

fn clients() -> [Client; 2] {
    let client = |name, mac, board, serial, last| Client {
        device: device(name),
        mac,
        board,
        serial,
        address: Ipv4Addr::new(10, 1, 2, last),
    };
    [client("three", PI_3, Board::Pi3B, None, 3), client("four", PI_4, Board::Pi4B, Some(0x9ffe_fdef), 4)]
}

fn full() -> Responder {
    let mask = Ipv4Addr::new(255, 255, 255, 0);
    let time = Duration::from_secs(3600);
    Responder::new(SERVER, Mode::Full { mask, router: Some(SERVER), name_servers: vec![], time }, clients())
}

fn beside() -> Responder {
    Responder::new(SERVER, Mode::Beside { server: None }, clients())
}

/// A packet as a client sends it: fixed part, then `options` and an end.
fn packet(op: u8, mac: Mac, options: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![op, 1, 6, 0];
    bytes.extend(XID.to_be_bytes());
    bytes.extend([0; 20]);
    bytes.extend(mac.0);
    bytes.extend([0; 10 + 64 + 128]);
    bytes.extend([99, 130, 83, 99]);
    bytes.extend(options.concat());
    bytes.push(255);
    bytes
}

fn option(code: u8, data: &[u8]) -> Vec<u8> {
    [&[code, u8::try_from(data.len()).unwrap()], data].concat()
}

const CLASS: &[u8] = b"PXEClient:Arch:00000:UNDI:002001";

/// What the boot ROM of a 3B sends.
fn discover_of_a_3b() -> Vec<u8> {
    let machine = option(97, &[&[0][..], &[0x44; 16]].concat());
    let wanted = option(55, &[43, 60, 67, 128, 129, 130, 131, 132, 133, 134, 135, 66]);
    let rest = [option(93, &[0, 0]), option(94, &[1, 2, 1]), machine, option(60, CLASS)].concat();
    packet(1, PI_3, &[&option(53, &[1]), &wanted, &rest])
}

fn machine_of_a_pi_4(serial: u32) -> Vec<u8> {
    let words = [*b"RPi4", 0x00c0_3111_u32.to_le_bytes(), [0x32, 0, 0, 4], serial.to_le_bytes()];
    option(97, &[&[0], words.as_flattened()].concat())
}

fn discover_of_a_pi_4(serial: u32) -> Vec<u8> {
    packet(1, PI_4, &[&option(53, &[1]), &option(60, CLASS), &machine_of_a_pi_4(serial)])
}

fn request(mac: Mac, options: &[&[u8]]) -> Vec<u8> {
    packet(1, mac, &[&option(53, &[3]), &options.concat()])
}

/// All that is sent within a minute of `bytes`, with how long it took, and what is told.
fn answer(responder: &mut Responder, bytes: &[u8]) -> (Vec<(u128, Outgoing)>, Vec<DhcpNews>) {
    let now = Instant::now();
    responder.on_packet(bytes, now);
    let mut sent = Vec::new();
    while let Some(deadline) = responder.deadline() {
        sent.extend(responder.due(deadline).into_iter().map(|packet| ((deadline - now).as_millis(), packet)));
    }
    (sent, responder.events().map(|event| event.what).collect())
}

/// The fixed part of an answer.
fn head(given: [u8; 4], next: [u8; 4], mac: Mac) -> Vec<u8> {
    let mut bytes = vec![2, 1, 6, 0];
    bytes.extend(XID.to_be_bytes());
    bytes.extend([0; 8]);
    bytes.extend(given);
    bytes.extend(next);
    bytes.extend([0; 4]);
    bytes.extend(mac.0);
    bytes.extend([0; 10 + 64 + 128]);
    bytes.extend([99, 130, 83, 99]);
    bytes
}

/// The options with which an address is lent, after the message type.
fn lease() -> Vec<u8> {
    [
        option(54, &[10, 1, 2, 1]),
        option(51, &[0, 0, 0x0e, 0x10]),
        option(58, &[0, 0, 0x07, 0x08]),
        option(59, &[0, 0, 0x0c, 0x4e]),
        option(1, &[255, 255, 255, 0]),
        option(28, &[10, 1, 2, 255]),
        option(3, &[10, 1, 2, 1]),
    ]
    .concat()
}

#[test]
fn a_3b_gets_its_offer_after_a_while_with_three_spaces_and_asks_no_more() {
    let (sent, told) = answer(&mut full(), &discover_of_a_3b());
    let mut wanted = head([10, 1, 2, 3], [10, 1, 2, 1], PI_3);
    wanted.extend(option(53, &[2]));
    wanted.extend(lease());
    wanted.extend(option(66, b"10.1.2.1"));
    wanted.extend(option(60, b"PXEClient"));
    wanted.extend(option(97, &[&[0][..], &[0x44; 16]].concat()));
    wanted.extend(option(43, b"\x06\x01\x03\x0a\x04\0PXE\x09\x17\0\0\x14Raspberry Pi Boot   \xff"));
    wanted.push(255);
    assert_eq!(sent, [(1500, Outgoing { to: Destination::All, bytes: wanted })]);
    let (device, address) = (device("three"), Some(Ipv4Addr::new(10, 1, 2, 3)));
    let discovered = DhcpNews::Discovered { device: device.clone(), boots: true };
    assert_eq!(told, [discovered, DhcpNews::Offered { device, address }]);
}

#[test]
fn a_pi_4_gets_offer_and_ack_at_once_also_where_its_request_does_not_say_that_it_boots() {
    let mut responder = full();
    let menu = b"\x06\x01\x03\x0a\x04\0PXE\x09\x14\0\0\x11Raspberry Pi Boot\xff";
    let mut rest = lease();
    rest.extend(option(66, b"10.1.2.1"));
    rest.extend(option(60, b"PXEClient"));
    let wanted = |kind: u8, machine: &[u8]| {
        let mut bytes = head([10, 1, 2, 4], [10, 1, 2, 1], PI_4);
        bytes.extend([&option(53, &[kind]), &rest[..], machine, &option(43, menu), &[255]].concat());
        vec![(0, Outgoing { to: Destination::All, bytes })]
    };
    let (sent, _) = answer(&mut responder, &discover_of_a_pi_4(0x9ffe_fdef));
    assert_eq!(sent, wanted(2, &machine_of_a_pi_4(0x9ffe_fdef)));
    let (sent, told) =
        answer(&mut responder, &request(PI_4, &[&option(50, &[10, 1, 2, 4]), &option(54, &[10, 1, 2, 1])]));
    assert_eq!(sent, wanted(5, &[]));
    let address = Ipv4Addr::new(10, 1, 2, 4);
    assert_eq!(told, [DhcpNews::Acknowledged { device: device("four"), address }]);
}

#[test]
fn beside_another_server_a_boot_rom_is_told_where_its_files_are_and_nothing_else() {
    let mut responder = beside();
    let (sent, told) = answer(&mut responder, &discover_of_a_pi_4(0x9ffe_fdef));
    let mut wanted = head([0; 4], [10, 1, 2, 1], PI_4);
    wanted.extend([option(53, &[2]), option(54, &[10, 1, 2, 1]), option(60, b"PXEClient")].concat());
    wanted.extend(machine_of_a_pi_4(0x9ffe_fdef));
    wanted.extend(option(43, b"\x06\x01\x03\x0a\x04\0PXE\x09\x14\0\0\x11Raspberry Pi Boot\xff"));
    wanted.push(255);
    assert_eq!(sent, [(0, Outgoing { to: Destination::All, bytes: wanted })]);
    assert_eq!(told.last(), Some(&DhcpNews::Offered { device: device("four"), address: None }));

    let system = packet(1, PI_4, &[&option(53, &[1])]);
    assert_eq!(answer(&mut responder, &system).0, [], "a system that runs needs no boot files");
    let to_the_other = request(PI_4, &[&option(50, &[10, 1, 2, 99]), &option(54, &OTHER.octets())]);
    let (sent, told) = answer(&mut responder, &to_the_other);
    let gave = Some(Ipv4Addr::new(10, 1, 2, 99));
    assert_eq!(sent, []);
    assert_eq!(told, [DhcpNews::OtherServer { server: OTHER, expected: true, mac: PI_4, gave }]);
    let third = packet(2, PI_4, &[&option(53, &[2]), &option(54, &[10, 9, 9, 9])]);
    let (_, told) = answer(&mut responder, &third);
    assert!(matches!(told[..], [DhcpNews::OtherServer { expected: false, .. }]), "{told:?}");
}

#[test]
fn a_system_that_runs_gets_its_address_without_boot_files_and_renews_it() {
    let mut responder = full();
    let (sent, _) = answer(&mut responder, &packet(1, PI_3, &[&option(53, &[1])]));
    let mut wanted = head([10, 1, 2, 3], [0; 4], PI_3);
    wanted.extend([option(53, &[2]), lease(), vec![255]].concat());
    wanted.resize(300, 0);
    assert_eq!(sent, [(0, Outgoing { to: Destination::All, bytes: wanted })]);

    let mut renewal = request(PI_3, &[]);
    renewal[12..16].copy_from_slice(&[10, 1, 2, 3]);
    let (sent, told) = answer(&mut responder, &renewal);
    assert_eq!(sent[0].1.to, Destination::Client(Ipv4Addr::new(10, 1, 2, 3)));
    assert_eq!(sent[0].1.bytes[12..16], [10, 1, 2, 3]);
    assert!(matches!(told[..], [DhcpNews::Acknowledged { .. }]), "{told:?}");
}

#[test]
fn who_asks_for_another_address_than_its_own_is_denied_it() {
    let mut responder = full();
    for asked in [&option(50, &[10, 1, 2, 3])[..], &[]] {
        let (sent, told) = answer(&mut responder, &request(PI_4, &[asked]));
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].1.bytes[240..243], [53, 1, 6]);
        assert_eq!(sent[0].1.bytes[16..24], [0; 8], "no address");
        assert!(matches!(told[..], [DhcpNews::Denied { .. }]), "{told:?}");
    }
}

#[test]
fn two_pi_3_that_boot_at_once_get_an_address_each_although_their_transactions_are_the_same() {
    let mut twins = clients();
    twins[1].board = Board::Pi3B;
    let mask = Ipv4Addr::new(255, 255, 255, 0);
    let time = Duration::from_secs(3600);
    let mode = Mode::Full { mask, router: None, name_servers: vec![], time };
    let mut responder = Responder::new(SERVER, mode, twins);
    let now = Instant::now();
    responder.on_packet(&discover_of_a_3b(), now);
    let mut second = discover_of_a_3b();
    second[28..34].copy_from_slice(&PI_4.0);
    responder.on_packet(&second, now);
    responder.on_packet(&discover_of_a_3b(), now + Duration::from_secs(1));
    assert_eq!(responder.due(now + Duration::from_secs(1)), []);
    let given: Vec<u8> =
        responder.due(now + Duration::from_millis(1500)).iter().map(|packet| packet.bytes[19]).collect();
    assert_eq!(given, [3, 4], "one answer each, also to who asked again meanwhile");
}

#[test]
fn strangers_and_contradictions_get_silence_and_are_told_once() {
    let mut responder = full();
    let mut stranger = discover_of_a_pi_4(0x9ffe_fdef);
    stranger[33] = 77;
    let (sent, told) = answer(&mut responder, &stranger);
    assert_eq!(sent, []);
    let [DhcpNews::Stranger { mac, class, serial, looks_like }] = &told[..] else { panic!("{told:?}") };
    assert_eq!((mac.0[5], class.as_deref()), (77, std::str::from_utf8(CLASS).ok()));
    assert_eq!((*serial, looks_like), (Some(0x9ffe_fdef), &Some(device("four"))));
    assert_eq!(answer(&mut responder, &stranger), (vec![], vec![]));

    let (sent, told) = answer(&mut responder, &discover_of_a_pi_4(0x1234_5678));
    assert_eq!(sent, []);
    let known = 0x9ffe_fdef;
    assert_eq!(told, [DhcpNews::Contradiction { device: device("four"), known, sent: 0x1234_5678 }]);
    let (sent, _) = answer(&mut responder, &discover_of_a_pi_4(0x9ffe_fdef_u32.swap_bytes()));
    assert_eq!(sent.len(), 1, "the order of bytes differs between boot loaders");
}

#[test]
fn another_server_is_named_and_believed_nothing() {
    let mut responder = full();
    let its_offer = packet(2, PI_4, &[&option(53, &[2]), &option(54, &OTHER.octets())]);
    let (sent, told) = answer(&mut responder, &its_offer);
    assert_eq!(sent, []);
    assert_eq!(told, [DhcpNews::OtherServer { server: OTHER, expected: false, mac: PI_4, gave: None }]);
    let chosen = request(PI_4, &[&option(50, &[10, 1, 2, 4]), &option(54, &OTHER.octets())]);
    assert_eq!(answer(&mut responder, &chosen), (vec![], vec![]), "told once; and it did not choose us");
    let own = packet(2, PI_4, &[&option(53, &[2]), &option(54, &SERVER.octets())]);
    assert_eq!(answer(&mut responder, &own), (vec![], vec![]), "our own voice");
    for n in 0..2000_u32 {
        answer(&mut responder, &request(PI_4, &[&option(54, &n.to_be_bytes())]));
    }
    let (sent, _) = answer(&mut responder, &discover_of_a_pi_4(0x9ffe_fdef));
    assert_eq!(sent.len(), 1, "invented servers harm nobody");
}

#[test]
fn a_relay_is_answered_at_the_server_s_port() {
    let mut bytes = discover_of_a_pi_4(0x9ffe_fdef);
    bytes[24..28].copy_from_slice(&[10, 7, 7, 7]);
    let (sent, _) = answer(&mut full(), &bytes);
    let to = sent[0].1.to;
    assert_eq!(to.address(67, 68), "10.7.7.7:67".parse().unwrap());
    assert_eq!(sent[0].1.bytes[24..28], [10, 7, 7, 7]);
    assert_eq!(Destination::All.address(67, 68), "255.255.255.255:68".parse().unwrap());
}

#[test]
fn a_flood_in_one_device_s_name_is_answered_within_bounds_and_harms_no_other() {
    let mut responder = full();
    let now = Instant::now();
    let (mut sent, mut told) = (0, Vec::new());
    for at in (0..10_000).map(|n| now + Duration::from_micros(100) * n) {
        responder.on_packet(&discover_of_a_pi_4(0x9ffe_fdef), at);
        sent += responder.due(at).len();
        told.extend(responder.events().map(|event| event.what));
    }
    // A full budget, and what came back in the second that it took.
    assert!((20..=41).contains(&sent), "{sent} answers");
    let floods = told.iter().filter(|news| matches!(news, DhcpNews::Flooded { .. })).count();
    assert_eq!((floods, told.len()), (1, 2 * sent + 1), "what is not answered is not told");
    let later = now + Duration::from_secs(1);
    responder.on_packet(&discover_of_a_3b(), later);
    let due = responder.due(later + Duration::from_secs(2));
    assert_eq!(due.len(), 1, "the other device");
    let rested = later + Duration::from_secs(1);
    responder.on_packet(&discover_of_a_pi_4(0x9ffe_fdef), rested);
    assert_eq!(responder.due(rested).len(), 1, "the same, after a rest");
}

#[test]
fn lengths_that_lie_harm_nothing() {
    let mut responder = full();
    let with = |options: &[u8]| packet(1, PI_4, &[options]);
    for options in [
        &[53, 0][..],
        &[53, 1, 1, 94, 0],
        &[53, 1, 1, 94, 255, 1],
        &[53, 1, 1, 93, 1, 0],
        &[53, 1, 1, 97, 3, 0, 1, 2],
        &[53, 1, 1, 50, 255],
        &[53, 1, 1, 54, 3, 1, 2, 3, 60, 0],
        &[53, 1, 1, 82, 2, 1, 255],
        &[53, 2, 1, 1],
        &[152, 0, 53, 1, 1],
    ] {
        answer(&mut responder, &with(options));
    }
    for (at, value) in [(0, 9), (1, 7), (2, 255), (2, 0), (236, 0)] {
        let mut bytes = discover_of_a_pi_4(0x9ffe_fdef);
        bytes[at] = value;
        assert_eq!(answer(&mut responder, &bytes).0, [], "{at}: {value}");
    }
    let padded = packet(1, PI_4, &[&[0; 30], &option(53, &[1]), &[0, 0], &option(60, CLASS)]);
    assert_eq!(answer(&mut responder, &padded).0.len(), 1);
    let mut long = discover_of_a_pi_4(0x9ffe_fdef);
    long.resize(MAX_PACKET + 1, 0);
    assert_eq!(answer(&mut responder, &long).0, []);
}

proptest! {
    #[test]
    fn any_bytes_are_borne_and_answers_are_short(
        bytes in prop::collection::vec(any::<u8>(), 0..1600),
        known in any::<bool>(),
        reply in any::<bool>(),
    ) {
        let mut bytes = bytes;
        // Most go past the first checks.
        if known && bytes.len() > 240 {
            bytes[..3].copy_from_slice(&[if reply { 2 } else { 1 }, 1, 6]);
            bytes[28..34].copy_from_slice(&PI_4.0);
            bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
        }
        for mut responder in [full(), beside()] {
            let (sent, told) = answer(&mut responder, &bytes);
            prop_assert!(sent.len() <= 1 && told.len() <= 2);
            prop_assert!(sent.iter().all(|(_, packet)| packet.bytes.len() <= 548), "RFC 2131 §2");
        }
    }

    #[test]
    fn any_options_are_borne(options in prop::collection::vec(
        (prop::sample::select(&[0_u8, 43, 50, 53, 54, 55, 57, 60, 66, 82, 93, 94, 97, 152, 255][..]),
            prop::collection::vec(any::<u8>(), 0..20), prop::option::of(any::<u8>())), 0..12)
    ) {
        let mut bytes = vec![53, 1, 1];
        for (code, data, lie) in options {
            let length = lie.unwrap_or(u8::try_from(data.len()).unwrap());
            bytes.extend([&[code, length], data.as_slice()].concat());
        }
        let (sent, _) = answer(&mut full(), &packet(1, PI_4, &[&bytes]));
        prop_assert!(sent.len() <= 1 && sent.iter().all(|(_, packet)| packet.bytes.len() <= 548));
    }
}

mod uefi;
