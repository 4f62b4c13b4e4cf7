//! What UEFI is answered, byte for byte.

use super::*;

const UEFI: Mac = Mac([0x52, 0x54, 0, 0, 0, 5]);

fn with_uefi(mode: Mode) -> Responder {
    let (device, address) = (device("five"), Ipv4Addr::new(10, 1, 2, 5));
    let client = Client { device, mac: UEFI, board: Board::UefiArm64, serial: None, address };
    Responder::new(SERVER, mode, [client])
}

/// As Debian's AAVMF 2022.11 asks: kind, architecture, class.
fn uefi(kind: u8, arch: u16, class: &str) -> Vec<u8> {
    let asks = (option(93, &arch.to_be_bytes()), option(60, class.as_bytes()), option(97, &[0; 17]));
    let wanted = if kind == 3 { option(50, &[10, 1, 2, 5]) } else { Vec::new() };
    packet(1, UEFI, &[&option(53, &[kind]), &wanted, &asks.2, &option(94, &[1, 3, 0]), &asks.0, &asks.1])
}

const BY_PXE: &str = "PXEClient:Arch:00011:UNDI:003000";
const BY_HTTP: &str = "HTTPClient:Arch:00019:UNDI:003000";

#[test]
fn uefi_is_told_the_name_of_its_file_or_the_url_whichever_it_asks_for() {
    let mask = Ipv4Addr::new(255, 255, 255, 0);
    let time = Duration::from_secs(3600);
    let mode = Mode::Full { mask, router: Some(SERVER), name_servers: vec![], time };
    let mut responder = with_uefi(mode.clone()).with_http("http://10.1.2.1:8080/v1/boot/".to_owned());
    let (name, url) =
        ("52-54-00-00-00-05/vmlinuz.efi", "http://10.1.2.1:8080/v1/boot/52-54-00-00-00-05/vmlinuz.efi");
    for (kind, answers) in [(1, 2), (3, 5)] {
        let told = |next: [u8; 4], class: &[u8], rest: &[Vec<u8>]| {
            let mut bytes = head([10, 1, 2, 5], next, UEFI);
            let machine = option(97, &[0; 17]);
            bytes.extend(
                [option(53, &[answers]), lease(), option(60, class), machine, rest.concat(), vec![255]]
                    .concat(),
            );
            bytes.resize(bytes.len().max(300), 0);
            vec![(0, Outgoing { to: Destination::All, bytes })]
        };
        let by_pxe = [option(43, &[6, 1, 8, 255]), option(67, name.as_bytes())];
        assert_eq!(
            answer(&mut responder, &uefi(kind, 11, BY_PXE)).0,
            told([10, 1, 2, 1], b"PXEClient", &by_pxe)
        );
        let by_http = [option(67, url.as_bytes())];
        assert_eq!(answer(&mut responder, &uefi(kind, 19, BY_HTTP)).0, told([0; 4], b"HTTPClient", &by_http));
    }
    // An address without a file: the firmware of a PC, and whoever asks for HTTP where there is none.
    let mut bare = with_uefi(mode);
    for packet in [uefi(1, 7, "PXEClient:Arch:00007:UNDI:003000"), uefi(1, 19, BY_HTTP), uefi(1, 19, BY_PXE)]
    {
        let mut wanted = head([10, 1, 2, 5], [0; 4], UEFI);
        wanted.extend([option(53, &[2]), lease(), vec![255]].concat());
        wanted.resize(300, 0);
        assert_eq!(answer(&mut bare, &packet).0, [(0, Outgoing { to: Destination::All, bytes: wanted })]);
    }
}

#[test]
fn beside_another_server_uefi_is_told_its_file_and_the_firmware_of_another_machine_nothing() {
    let mut responder = with_uefi(Mode::Beside { server: None });
    let (sent, _) = answer(&mut responder, &uefi(1, 11, BY_PXE));
    assert_eq!(sent.len(), 1);
    assert!(sent[0].1.bytes[16..20] == [0; 4] && sent[0].1.bytes[20..24] == SERVER.octets());
    assert_eq!(answer(&mut responder, &uefi(1, 7, "PXEClient:Arch:00007:UNDI:003000")).0, []);
}
