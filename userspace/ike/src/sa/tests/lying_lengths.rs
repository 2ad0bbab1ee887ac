//! A peer that has the keys lies in each length and count inside SK, at every depth (RFC 7296 §3.2 to
//! §3.15), in requests and responses of each exchange: what cannot be parsed ends what it was said in, and
//! whatever becomes of the rest, nothing leaks.

use mitregate_wire::ike::{PayloadType, parse_payloads};

use super::*;

/// Place and width of a field.
type Field = (usize, usize);

fn read(bytes: &[u8], (at, width): Field) -> usize {
    bytes[at..at + width]
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

/// The lengths of the attributes from `at` to `end`; without those of two bytes, which have none
/// (RFC 7296 §3.3.5).
fn attributes(bytes: &[u8], mut at: usize, end: usize, fields: &mut Vec<Field>) {
    while at + 4 <= end {
        let length = (at + 2, 2);
        let short = bytes[at] & 0x80 != 0;
        if !short {
            fields.push(length);
        }
        at += 4 + if short { 0 } else { read(bytes, length) };
    }
}

/// All lengths and counts in the payloads of a valid message.
fn lengths(first: PayloadType, bytes: &[u8]) -> Vec<Field> {
    let mut fields = Vec::new();
    let (mut kind, mut at) = (first, 0);
    while at < bytes.len() {
        fields.push((at + 2, 2));
        let (body, end) = (at + 4, at + read(bytes, (at + 2, 2)));
        match kind {
            PayloadType::SA => {
                let mut proposal = body;
                while proposal < end {
                    let next = proposal + read(bytes, (proposal + 2, 2));
                    fields.extend([(proposal + 2, 2), (proposal + 6, 1), (proposal + 7, 1)]);
                    let mut transform = proposal + 8 + read(bytes, (proposal + 6, 1));
                    while transform < next {
                        fields.push((transform + 2, 2));
                        let after = transform + read(bytes, (transform + 2, 2));
                        attributes(bytes, transform + 8, after, &mut fields);
                        transform = after;
                    }
                    proposal = next;
                }
            }
            PayloadType::TS_I | PayloadType::TS_R => {
                fields.push((body, 1));
                let mut selector = body + 4;
                while selector < end {
                    fields.push((selector + 2, 2));
                    selector += read(bytes, (selector + 2, 2));
                }
            }
            PayloadType::NOTIFY => fields.push((body + 1, 1)),
            PayloadType::DELETE => fields.extend([(body + 1, 1), (body + 2, 2)]),
            PayloadType::CONFIGURATION => attributes(bytes, body + 4, end, &mut fields),
            _ => {}
        }
        (kind, at) = (PayloadType(bytes[at]), end);
    }
    fields
}

/// What may stand in a field in place of the truth.
fn lies(bytes: &[u8], field: Field) -> Vec<Vec<u8>> {
    let truth = read(bytes, field);
    let most = (1 << (8 * field.1)) - 1;
    let values = [0, 1, truth.wrapping_sub(1), truth + 1, most];
    let values = values.into_iter().filter(|v| *v != truth && *v <= most);
    let lie = |value: usize| {
        let mut forged = bytes.to_vec();
        let (at, width) = field;
        forged[at..at + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
        forged
    };
    values.map(lie).collect()
}

fn setup() -> Setup {
    let hybrid = "aes256gcm16-prfsha384-x25519-ke1_ecp256";
    let mut setup = Setup::new().proposals(hybrid, hybrid);
    setup.client.vips = vec!["0.0.0.0".parse().unwrap()];
    setup.server.assigns = true;
    setup
}

/// A connection, both rekeys and a delete, as the message `nth` is about to arrive.
fn until(nth: usize) -> Option<World> {
    let mut world = setup().world(120);
    world.hosts[SERVER].leases.free.addresses = vec!["10.1.0.1".parse().unwrap()];
    let mut deeds = 0;
    world.connect();
    for n in 0.. {
        if world.net.is_empty() {
            let spi = world.hosts[CLIENT].installed.keys().next().copied();
            world.call_live(CLIENT, |sa, cx| match (deeds, spi) {
                (0, Some(spi)) => sa.rekey_child(spi, cx).unwrap(),
                (1, Some(spi)) => sa.delete_child(spi, cx).unwrap(),
                (2, _) => sa.rekey(cx).unwrap(),
                _ => {}
            });
            deeds += 1;
        }
        if n == nth {
            break;
        }
        let packet = (world.net.len() == 1).then(|| world.net.remove(0))?;
        world.deliver(packet.to, packet.source, packet.destination, &packet.bytes);
    }
    (!world.net.is_empty()).then_some(world)
}

/// The IKE SA of a host that a message is from or to.
fn sa_of<'a>(world: &'a mut World, host: usize, header: &Header) -> &'a mut IkeSa {
    let mut sas = world.hosts[host].sas.iter_mut();
    let spis = [header.spi_i, header.spi_r];
    sas.find(|sa| spis.contains(&sa.local_spi()))
        .expect("its IKE SA")
}

#[test]
fn each_length_in_each_protected_message() {
    let (mut told, mut exchanges) = (0, BTreeSet::new());
    for nth in 2.. {
        let Some(mut honest) = until(nth) else { break };
        let packet = honest.net.remove(0);
        let outer = peek(&packet.bytes).unwrap();
        let to = packet.to;
        let unsealed = sa_of(&mut honest, to, &outer).unseal(&packet.bytes);
        let (header, first, inner) = unsealed.expect("a message in SK");
        let response = header.flags.response;
        exchanges.insert((header.exchange.0, response));
        // An answer to IKE_INTERMEDIATE is the last that is sealed with the keys before it.
        let mut liars = until(nth - usize::from(response)).unwrap();
        let liar = sa_of(&mut liars, 1 - to, &outer);
        for forged in lengths(first, &inner)
            .into_iter()
            .flat_map(|field| lies(&inner, field))
        {
            let mut world = until(nth).unwrap();
            world.net.clear();
            let mut rng = ChaCha20Rng::seed_from_u64(1);
            let (exchange, id) = (header.exchange, header.message_id);
            let message = liar.forge(exchange, response, id, (first, &forged), None, &mut rng);
            let before = world.hosts[to].log.len();
            world.deliver(to, packet.source, packet.destination, &message.unwrap());
            // Of a request that nobody can read the sender is told that nothing comes of it any more.
            let malformed = parse_payloads(first, &forged).is_err();
            let log = &world.hosts[to].log[before..];
            let over = log.iter().any(|e| e.contains("malformed message"));
            let state = world.hosts[to]
                .sas
                .iter()
                .find(|sa| [header.spi_i, header.spi_r].contains(&sa.local_spi()));
            let state = state.map(IkeSa::state);
            assert!(
                !malformed || over || matches!(state, None | Some(State::Closing | State::Dead)),
                "message {nth}: {state:?} {log:?}"
            );
            told += 1;
            world.settle();
            for host in &world.hosts {
                let installed = host.installed.keys();
                assert!(host.spis.used.iter().eq(installed), "{:?}", host.log);
                let views: usize = host.sas.iter().map(|sa| sa.children().count()).sum();
                assert_eq!(views, host.installed.len());
            }
        }
    }
    // IKE_AUTH, CREATE_CHILD_SA, INFORMATIONAL, IKE_INTERMEDIATE, IKE_FOLLOWUP_KE.
    let both = |exchange| [(exchange, false), (exchange, true)];
    let all: BTreeSet<_> = [35, 36, 37, 43, 44].into_iter().flat_map(both).collect();
    assert_eq!(exchanges, all);
    assert!(told > 500, "{told}");
}

/// More payloads than anybody needs, in one message as long as it gets: they are read, and nothing else.
#[test]
fn thousands_of_payloads() {
    for kind in [
        PayloadType::NOTIFY,
        PayloadType::VENDOR_ID,
        PayloadType(200),
    ] {
        let mut world = Setup::new().connected(121);
        let mut inner = Vec::new();
        let body: &[u8] = if kind == PayloadType::NOTIFY {
            &[0, 0, 0x9c, 0x40]
        } else {
            &[]
        };
        let count = 7000;
        for n in 1..=count {
            inner.extend([if n == count { 0 } else { kind.0 }, 0, 0]);
            inner.push(u8::try_from(4 + body.len()).unwrap());
            inner.extend(body);
        }
        for exchange in [37, 36] {
            let mut rng = ChaCha20Rng::seed_from_u64(1);
            let sa = &mut world.hosts[CLIENT].sas[0];
            let (id, _) = sa.message_ids();
            let exchange = mitregate_wire::ike::ExchangeType(exchange);
            let forged = sa.forge(exchange, false, id, (kind, &inner), None, &mut rng);
            world.call(CLIENT, |sa, _| sa.next_request += 1);
            let (client, server) = world.hosts[CLIENT].sas[0].addresses();
            world.deliver(SERVER, client, server, &forged.unwrap());
            let answer = world.net.pop().expect("an answer");
            assert!(answer.bytes.len() < 200);
            world.net.clear();
        }
    }
}
