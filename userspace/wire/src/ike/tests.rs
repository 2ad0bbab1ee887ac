use core::net::{Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..max)
}

fn attribute() -> impl Strategy<Value = Attribute> {
    let value = prop_oneof![
        any::<u16>().prop_map(AttributeValue::Short),
        bytes(8).prop_map(AttributeValue::Long),
    ];
    (0_u16..0x8000, value).prop_map(|(kind, value)| Attribute { kind, value })
}

fn transform() -> impl Strategy<Value = Transform> {
    (any::<u8>(), any::<u16>(), vec(attribute(), 0..3)).prop_map(|(kind, id, attributes)| {
        Transform {
            kind: TransformType(kind),
            id,
            attributes,
        }
    })
}

fn proposal() -> impl Strategy<Value = Proposal> {
    (any::<u8>(), any::<u8>(), bytes(9), vec(transform(), 0..6)).prop_map(
        |(number, protocol, spi, transforms)| Proposal {
            number,
            protocol: ProtocolId(protocol),
            spi,
            transforms,
        },
    )
}

fn selector() -> impl Strategy<Value = Selector> {
    let addresses = prop_oneof![
        (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(a, b)| Addresses::V4 {
            start: Ipv4Addr::from(a),
            end: Ipv4Addr::from(b)
        }),
        (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(a, b)| Addresses::V6 {
            start: Ipv6Addr::from(a),
            end: Ipv6Addr::from(b)
        }),
    ];
    prop_oneof![
        3 => (any::<u8>(), any::<u16>(), any::<u16>(), addresses).prop_map(
            |(protocol, start_port, end_port, addresses)| Selector::Range {
                protocol, start_port, end_port, addresses
            }
        ),
        1 => (9_u8..255, any::<u8>(), bytes(20)).prop_map(|(kind, protocol, body)| {
            Selector::Unknown { kind: TsType(kind), protocol, body }
        }),
    ]
}

fn identification() -> impl Strategy<Value = Identification> {
    (any::<u8>(), bytes(40)).prop_map(|(kind, data)| Identification {
        kind: IdType(kind),
        data,
    })
}

fn certificate() -> impl Strategy<Value = Certificate> {
    (any::<u8>(), bytes(40)).prop_map(|(encoding, data)| Certificate {
        encoding: CertEncoding(encoding),
        data,
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    let configuration =
        (0_u16..0x8000, bytes(9)).prop_map(|(kind, value)| ConfigurationAttribute { kind, value });
    let delete = prop_oneof![
        Just(Delete::Ike),
        vec(any::<u32>(), 0..9).prop_map(Delete::Esp),
        vec(any::<u32>(), 0..9).prop_map(Delete::Ah),
    ];
    prop_oneof![
        vec(proposal(), 1..4).prop_map(Payload::Sa),
        (any::<u16>(), bytes(70)).prop_map(|(method, data)| {
            Payload::KeyExchange(KeyExchange {
                method: KeyExchangeId(method),
                data,
            })
        }),
        identification().prop_map(Payload::IdI),
        identification().prop_map(Payload::IdR),
        certificate().prop_map(Payload::Certificate),
        certificate().prop_map(Payload::CertificateRequest),
        (any::<u8>(), bytes(50)).prop_map(|(method, data)| {
            Payload::Authentication(Authentication {
                method: AuthMethod(method),
                data,
            })
        }),
        vec(any::<u8>(), 16..=256).prop_map(Payload::Nonce),
        (any::<u8>(), bytes(9), any::<u16>(), bytes(40)).prop_map(|(protocol, spi, kind, data)| {
            Payload::Notify(Notify {
                protocol: ProtocolId(protocol),
                spi,
                kind: NotifyType(kind),
                data,
            })
        }),
        delete.prop_map(Payload::Delete),
        bytes(40).prop_map(Payload::VendorId),
        vec(selector(), 1..4).prop_map(Payload::TsI),
        vec(selector(), 1..4).prop_map(Payload::TsR),
        (any::<u8>(), vec(configuration, 0..4)).prop_map(|(kind, attributes)| {
            Payload::Configuration(Configuration { kind, attributes })
        }),
        bytes(40).prop_map(Payload::Eap),
        (54_u8..=255, any::<bool>(), bytes(40)).prop_map(|(kind, critical, body)| {
            Payload::Unknown {
                kind: PayloadType(kind),
                critical,
                body,
            }
        }),
    ]
}

fn encrypted() -> impl Strategy<Value = Payload> {
    prop_oneof![
        (any::<u8>(), bytes(60)).prop_map(|(first, body)| Payload::Encrypted {
            first: PayloadType(first),
            body,
        }),
        (any::<u8>(), 1_u16.., any::<u16>(), bytes(60)).prop_map(|(first, number, more, body)| {
            Payload::EncryptedFragment {
                first: PayloadType(first),
                number,
                total: number.saturating_add(more),
                body,
            }
        }),
    ]
}

prop_compose! {
    fn message()(
        spi_i: [u8; 8],
        spi_r: [u8; 8],
        exchange: u8,
        initiator: bool,
        response: bool,
        message_id: u32,
        mut payloads in vec(payload(), 0..8),
        encrypted in proptest::option::of(encrypted()),
    ) -> Message {
        payloads.extend(encrypted);
        Message {
            spi_i: IkeSpi(spi_i),
            spi_r: IkeSpi(spi_r),
            exchange: ExchangeType(exchange),
            flags: Flags { initiator, response },
            message_id,
            payloads,
        }
    }
}

proptest! {
    #[test]
    fn parse_gives_back_what_emit_took(message in message()) {
        let bytes = message.emit().unwrap();
        prop_assert_eq!(Message::parse(&bytes), Ok(message));
        let header = Header::parse(&bytes).unwrap();
        prop_assert_eq!(&header.to_bytes()[..], &bytes[..HEADER_LEN]);
    }

    #[test]
    fn truncation_is_an_error(message in message()) {
        let bytes = message.emit().unwrap();
        for len in 0..bytes.len() {
            prop_assert!(Message::parse(&bytes[..len]).is_err());
            if len >= HEADER_LEN {
                let mut short = bytes[..len].to_vec();
                header::set_length(&mut short, u32::try_from(len).unwrap());
                // Cut between two payloads, the last one still names a next.
                prop_assert!(Message::parse(&short).is_err());
            }
        }
        let mut long = bytes.clone();
        long.push(0);
        prop_assert_eq!(Message::parse(&long), Err(ParseError::BadLength));
        let len = u32::try_from(long.len()).unwrap();
        header::set_length(&mut long, len);
        prop_assert!(Message::parse(&long).is_err());
    }

    /// What parses, however odd, emits to a message that means the same.
    #[test]
    fn one_changed_byte(message in message(), at: prop::sample::Index, xor in 1_u8..) {
        let mut bytes = message.emit().unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= xor;
        if let Ok(parsed) = Message::parse(&bytes) {
            let again = parsed.emit().unwrap();
            prop_assert_eq!(again.len(), bytes.len());
            prop_assert_eq!(Message::parse(&again), Ok(parsed));
        }
    }

    #[test]
    fn arbitrary_payloads(first: u8, bytes in bytes(300)) {
        if let Ok(payloads) = parse_payloads(PayloadType(first), &bytes) {
            let mut again = Vec::new();
            emit_payloads(&payloads, &mut again).unwrap();
            prop_assert_eq!(again.len(), bytes.len());
            prop_assert_eq!(parse_payloads(PayloadType(first), &again), Ok(payloads));
        }
    }
}

fn of(payloads: Vec<Payload>) -> Message {
    Message {
        spi_i: IkeSpi([1; 8]),
        spi_r: IkeSpi([2; 8]),
        exchange: ExchangeType::INFORMATIONAL,
        flags: Flags {
            initiator: true,
            response: false,
        },
        message_id: 7,
        payloads,
    }
}

#[test]
fn a_message_byte_by_byte() {
    let message = of(vec![
        Payload::Delete(Delete::Esp(vec![0x0102_0304])),
        Payload::Notify(Notify::with_data(NotifyType::INVALID_KE_PAYLOAD, [0, 31])),
    ]);
    let expected = [
        &[1; 8][..],
        &[2; 8],
        // Next payload Delete, version 2.0, INFORMATIONAL, flag I, message ID, length.
        &[42, 0x20, 37, 0x08, 0, 0, 0, 7, 0, 0, 0, 50],
        // Delete: ESP, SPIs of 4 bytes, one of them.
        &[41, 0, 0, 12, 3, 4, 0, 1, 1, 2, 3, 4],
        // Notify: no protocol, no SPI, type 17, group 31.
        &[0, 0, 0, 10, 0, 0, 0, 17, 0, 31],
    ]
    .concat();
    assert_eq!(message.emit().unwrap(), expected);
}

#[test]
fn an_sa_payload_byte_by_byte() {
    let message = of(vec![Payload::Sa(vec![
        Proposal {
            number: 1,
            protocol: ProtocolId::ESP,
            spi: vec![9, 8, 7, 6],
            transforms: vec![
                Transform::encryption(EncryptionId::AES_GCM_16, Some(256)),
                Transform::esn(EsnId::ESN),
            ],
        },
        Proposal {
            number: 2,
            protocol: ProtocolId::IKE,
            spi: vec![],
            transforms: vec![Transform::prf(PrfId::HMAC_SHA2_384)],
        },
    ])]);
    let expected = [
        &[0, 0, 0, 52][..],
        &[2, 0, 0, 32, 1, 3, 4, 2, 9, 8, 7, 6],
        &[3, 0, 0, 12, 1, 0, 0, 20, 0x80, 14, 1, 0],
        &[0, 0, 0, 8, 5, 0, 0, 1],
        &[0, 0, 0, 16, 2, 1, 0, 1],
        &[0, 0, 0, 8, 2, 0, 0, 6],
    ]
    .concat();
    assert_eq!(message.emit().unwrap()[HEADER_LEN..], expected);
    assert_eq!(Transform::esn(EsnId::ESN).key_bits(), Ok(None));
    let aes = Transform::encryption(EncryptionId::AES_GCM_16, Some(256));
    assert_eq!(aes.key_bits(), Ok(Some(256)));
}

/// RFC 7383 §2.5: fragment 2 of 3; both numbers come before what would be the SK payload's body.
#[test]
fn a_fragment_byte_by_byte() {
    let fragment = |number, total| {
        of(vec![Payload::EncryptedFragment {
            first: PayloadType::NONE,
            number,
            total,
            body: vec![9, 8, 7],
        }])
    };
    let bytes = fragment(2, 3).emit().unwrap();
    assert_eq!(bytes[16], 53);
    assert_eq!(bytes[HEADER_LEN..], [0, 0, 0, 11, 0, 2, 0, 3, 9, 8, 7]);
    assert_eq!(Message::parse(&bytes), Ok(fragment(2, 3)));
    // §2.6: both are at least 1, and the number is not above the total.
    for (number, total) in [(0, 0), (0, 1), (2, 1), (65_535, 65_534)] {
        let bytes = fragment(number, total).emit().unwrap();
        assert_eq!(Message::parse(&bytes), Err(ParseError::BadFragment));
    }
    let fragment = fragment(1, 1).payloads.remove(0);
    let message = of(vec![fragment, Payload::VendorId(vec![])]);
    assert_eq!(message.emit(), Err(ParseError::BadEncrypted));
}

#[test]
fn a_selector_byte_by_byte() {
    let message = of(vec![Payload::TsI(vec![Selector::Range {
        protocol: 6,
        start_port: 80,
        end_port: 90,
        addresses: Addresses::V4 {
            start: Ipv4Addr::new(10, 0, 0, 0),
            end: Ipv4Addr::new(10, 0, 0, 255),
        },
    }])]);
    let expected = [
        0, 0, 0, 24, 1, 0, 0, 0, 7, 6, 0, 16, 0, 80, 0, 90, 10, 0, 0, 0, 10, 0, 0, 255,
    ];
    assert_eq!(message.emit().unwrap()[HEADER_LEN..], expected);
}

#[test]
fn versions() {
    let mut bytes = of(vec![]).emit().unwrap();
    // RFC 7296 §2.5: a minor version is ignored.
    bytes[17] = 0x2f;
    assert!(Message::parse(&bytes).is_ok());
    for version in [0x10, 0x30, 0x00, 0xff] {
        bytes[17] = version;
        assert_eq!(Message::parse(&bytes), Err(ParseError::BadVersion(version)));
    }
}

#[test]
fn reserved_bits_are_ignored() {
    let message = of(vec![
        Payload::IdI(Identification {
            kind: IdType::FQDN,
            data: vec![b'a'],
        }),
        Payload::Nonce(vec![3; 16]),
    ]);
    let mut bytes = message.emit().unwrap();
    // Header flags that mean nothing, and the version flag of the sender (RFC 7296 §3.1).
    bytes[19] |= 0xd7;
    // Critical and reserved bits of a payload that we know, and its reserved bytes.
    bytes[HEADER_LEN + 1] = 0xff;
    bytes[HEADER_LEN + 5..HEADER_LEN + 8].fill(0xff);
    assert_eq!(Message::parse(&bytes), Ok(message));
}

#[test]
fn what_cannot_be_emitted() {
    let refused = |payload| of(vec![payload]).emit().unwrap_err();
    assert_eq!(refused(Payload::Nonce(vec![0; 15])), ParseError::BadNonce);
    assert_eq!(refused(Payload::Nonce(vec![0; 257])), ParseError::BadNonce);
    assert_eq!(refused(Payload::Sa(vec![])), ParseError::BadSa);
    assert_eq!(refused(Payload::TsI(vec![])), ParseError::BadSelector);
    assert_eq!(
        refused(Payload::VendorId(vec![0; 65_532])),
        ParseError::TooLong
    );
    let sk = Payload::Encrypted {
        first: PayloadType::NONE,
        body: vec![],
    };
    let message = of(vec![sk, Payload::VendorId(vec![])]);
    assert_eq!(message.emit(), Err(ParseError::BadEncrypted));
}

#[test]
fn lengths_that_lie() {
    // A payload of less than its own header; a substructure that ends beyond its parent.
    let cases: [(PayloadType, &[u8]); 8] = [
        (PayloadType::NONCE, &[0, 0, 0, 3]),
        (PayloadType::VENDOR_ID, &[0, 0, 0, 5]),
        (PayloadType::SA, &[0, 0, 0, 4]),
        (PayloadType::SA, &[0, 0, 0, 12, 0, 0, 0, 9, 1, 1, 0, 0]),
        (PayloadType::SA, &[0, 0, 0, 12, 0, 0, 0, 8, 1, 1, 0, 1]),
        (PayloadType::TS_I, &[0, 0, 0, 8, 0, 0, 0, 0]),
        (PayloadType::DELETE, &[0, 0, 0, 8, 3, 4, 0xff, 0xff]),
        (PayloadType::NOTIFY, &[0, 0, 0, 8, 0, 9, 0, 1]),
    ];
    for (first, bytes) in cases {
        assert!(parse_payloads(first, bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn names() {
    assert_eq!(NotifyType::TS_UNACCEPTABLE.to_string(), "TS_UNACCEPTABLE");
    assert_eq!(NotifyType(9999).to_string(), "NotifyType(9999)");
    assert!(NotifyType::TEMPORARY_FAILURE.is_error() && !NotifyType::COOKIE.is_error());
    assert_eq!(
        IkeSpi([0, 0, 0, 0, 0, 0, 1, 0xff]).to_string(),
        "00000000000001ff"
    );
}
