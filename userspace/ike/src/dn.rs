//! Distinguished names (X.501, RFC 5280 §4.1.2.4) as swanctl writes them: "C=CH, O=Lab, CN=gw", in
//! the order in which they are encoded.

use core::fmt::Write;

use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{Any, ObjectIdentifier};
use x509_cert::der::{Decode, Encode, Tag, Tagged};
use x509_cert::name::{RdnSequence, RelativeDistinguishedName};

/// A value that stands for any (swanctl's wildcard).
const ANY_VALUE: &str = "*";
/// RFC 5280 appendix A.1 ends each of its strings well before that.
const MAX_TEXT: usize = 1024;

/// Attribute types by the names that strongSwan and OpenSSL know. The first name of a type is the
/// one that is shown.
const NAMES: &[(&str, &str)] = &[
    ("C", "2.5.4.6"),
    ("ST", "2.5.4.8"),
    ("L", "2.5.4.7"),
    ("STREET", "2.5.4.9"),
    ("O", "2.5.4.10"),
    ("OU", "2.5.4.11"),
    ("CN", "2.5.4.3"),
    ("SN", "2.5.4.5"),
    ("serialNumber", "2.5.4.5"),
    ("S", "2.5.4.4"),
    ("G", "2.5.4.42"),
    ("GN", "2.5.4.42"),
    ("I", "2.5.4.43"),
    ("T", "2.5.4.12"),
    ("N", "2.5.4.41"),
    ("D", "2.5.4.13"),
    ("dnQualifier", "2.5.4.46"),
    ("UID", "0.9.2342.19200300.100.1.1"),
    ("DC", DOMAIN_COMPONENT),
    ("E", EMAIL_ADDRESS),
    ("Email", EMAIL_ADDRESS),
    ("emailAddress", EMAIL_ADDRESS),
];
const EMAIL_ADDRESS: &str = "1.2.840.113549.1.9.1";
const DOMAIN_COMPONENT: &str = "0.9.2342.19200300.100.1.25";

/// The DER of a name written as `TYPE=value`, separated by commas. A backslash takes the next
/// character, or the byte that two hexadecimal digits say, as it is. `None` if it is no such text.
pub(crate) fn parse(text: &str) -> Option<Vec<u8>> {
    if text.len() > MAX_TEXT {
        return None;
    }
    let mut rdns = RdnSequence::default();
    for part in split(text)? {
        let (name, value) = part.split_once('=')?;
        let oid = oid_of(name.trim())?;
        let value = unescape(value.trim())?;
        let tag = match oid.to_string().as_str() {
            EMAIL_ADDRESS | DOMAIN_COMPONENT if value.is_ascii() => Tag::Ia5String,
            _ if value.bytes().all(is_printable) => Tag::PrintableString,
            _ => Tag::Utf8String,
        };
        let value = Any::new(tag, value.into_bytes()).ok()?;
        let attribute = AttributeTypeAndValue { oid, value };
        rdns.push(RelativeDistinguishedName::try_from(vec![attribute]).ok()?);
    }
    if rdns.is_empty() {
        return None;
    }
    rdns.to_der().ok()
}

/// One attribute of a distinguished name, as it is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameAttribute {
    /// Its type, such as `2.5.4.3` for CN.
    pub oid: String,
    /// ASN.1 tag of the value, such as 12 for UTF8String.
    pub tag: u8,
    /// The value.
    pub value: Vec<u8>,
}

/// The attributes in the order in which they are encoded; `None` for no DER of a name.
pub(crate) fn list(der: &[u8]) -> Option<Vec<NameAttribute>> {
    let encoded = |attribute: &AttributeTypeAndValue| {
        Some(NameAttribute {
            oid: attribute.oid.to_string(),
            tag: attribute.value.to_der().ok()?.first().copied()?,
            value: attribute.value.value().to_vec(),
        })
    };
    attributes(der)?.iter().map(encoded).collect()
}

/// The name as text; `None` if these bytes are no DER of a name. No character of it moves a
/// terminal's cursor.
pub(crate) fn show(der: &[u8]) -> Option<String> {
    let mut text = String::new();
    for attribute in attributes(der)? {
        if !text.is_empty() {
            text.push_str(", ");
        }
        let oid = attribute.oid.to_string();
        let name = NAMES.iter().find(|(_, known)| *known == oid);
        text.push_str(name.map_or(&oid, |(name, _)| name));
        text.push('=');
        match string(&attribute.value) {
            Some(value) => escape(&value, &mut text),
            None => {
                text.push('#');
                for byte in attribute.value.value() {
                    let _ = write!(text, "{byte:02x}");
                }
            }
        }
    }
    Some(text)
}

/// Are they the same name? Strings are compared without regard to their ASN.1 type, to the case of
/// ASCII letters and to runs of spaces (RFC 5280 §7.1).
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    a == b || compare(a, b, |_| false)
}

/// The same bytes for the same name, and for no other.
pub(crate) fn key(der: &[u8]) -> Vec<u8> {
    let Some(list) = attributes(der) else {
        return [&[0], der].concat();
    };
    let mut key = vec![1];
    for attribute in list {
        let value = string(&attribute.value).map(|text| fold(&text).into_bytes());
        let (kind, value) = match value {
            Some(text) => (0, text),
            // Of no type that is text: as it is encoded.
            None => (1, attribute.value.to_der().unwrap_or_default()),
        };
        for part in [attribute.oid.as_bytes(), &[kind], &value] {
            key.extend_from_slice(&part.len().to_be_bytes());
            key.extend_from_slice(part);
        }
    }
    key
}

/// Does a name fit a pattern, in which a value `*` stands for any?
pub(crate) fn fits(pattern: &[u8], name: &[u8]) -> bool {
    compare(pattern, name, |value| {
        string(value).as_deref() == Some(ANY_VALUE)
    })
}

/// Does a pattern have a value `*`?
pub(crate) fn is_pattern(der: &[u8]) -> bool {
    attributes(der).is_some_and(|list| {
        list.iter()
            .any(|attribute| string(&attribute.value).as_deref() == Some(ANY_VALUE))
    })
}

fn compare(a: &[u8], b: &[u8], wildcard: impl Fn(&Any) -> bool) -> bool {
    let (Some(a), Some(b)) = (attributes(a), attributes(b)) else {
        return false;
    };
    a.len() == b.len()
        && a.iter().zip(&b).all(|(a, b)| {
            a.oid == b.oid
                && (wildcard(&a.value)
                    || a.value == b.value
                    || match (string(&a.value), string(&b.value)) {
                        (Some(a), Some(b)) => fold(&a) == fold(&b),
                        _ => false,
                    })
        })
}

fn attributes(der: &[u8]) -> Option<Vec<AttributeTypeAndValue>> {
    let rdns = RdnSequence::from_der(der).ok()?;
    Some(
        rdns.iter()
            .flat_map(RelativeDistinguishedName::iter)
            .cloned()
            .collect(),
    )
}

fn fold(text: &str) -> String {
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    words.join(" ").to_ascii_lowercase()
}

/// The text of a string value, whatever its type.
fn string(value: &Any) -> Option<String> {
    let bytes = value.value();
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString => {
            core::str::from_utf8(bytes).ok().map(str::to_owned)
        }
        // ISO 8859-1 in practice.
        Tag::TeletexString => Some(bytes.iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString => {
            let units = bytes.chunks_exact(2);
            if !units.remainder().is_empty() {
                return None;
            }
            let units = units.map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        _ => None,
    }
}

/// X.680 §41.4.
const fn is_printable(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b' ' | b'\'' | b'(' | b')' | b'+' | b',')
        || matches!(byte, b'-' | b'.' | b'/' | b':' | b'=' | b'?')
}

fn oid_of(name: &str) -> Option<ObjectIdentifier> {
    let known = NAMES
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name));
    match known {
        Some((_, oid)) => oid.parse().ok(),
        None => name.parse().ok(),
    }
}

/// Parts between commas that no backslash stands before.
fn split(text: &str) -> Option<Vec<String>> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ',' => parts.push(String::new()),
            '\\' => {
                let part = parts.last_mut()?;
                part.push('\\');
                part.push(chars.next()?);
            }
            c => parts.last_mut()?.push(c),
        }
    }
    Some(parts)
}

fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        // Controls, and whatever else is no letter or digit: some of it breaks lines or turns the
        // direction of writing.
        let shown = c.is_ascii_graphic() || c == ' ' || !c.is_ascii() && c.is_alphanumeric();
        if !shown {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(out, "\\{byte:02x}");
            }
        } else {
            if matches!(c, ',' | '\\') {
                out.push('\\');
            }
            out.push(c);
        }
    }
}

fn unescape(value: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut rest = value.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        let hex = |byte: u8| char::from(byte).to_digit(16);
        match rest {
            [a, b, tail @ ..] if hex(*a).is_some() && hex(*b).is_some() => {
                out.push(u8::try_from(hex(*a)? << 4 | hex(*b)?).ok()?);
                rest = tail;
            }
            [literal, tail @ ..] => {
                out.push(*literal);
                rest = tail;
            }
            [] => return None,
        }
    }
    String::from_utf8(out)
        .ok()
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use x509_cert::der::asn1::SetOfVec;

    use super::*;

    fn shown(text: &str) -> String {
        show(&parse(text).unwrap()).unwrap()
    }

    #[test]
    fn names_as_swanctl_writes_them() {
        // X.690 by hand: SEQUENCE { SET { SEQUENCE { 2.5.4.6, PrintableString "CH" } } }
        assert_eq!(
            parse("C=CH").unwrap(),
            [
                0x30, 13, 0x31, 11, 0x30, 9, 0x06, 3, 0x55, 4, 6, 0x13, 2, b'C', b'H'
            ]
        );
        assert_eq!(shown("C=CH,O=Lab,  CN = gw"), "C=CH, O=Lab, CN=gw");
        assert_eq!(shown("cn=Gärtner"), "CN=Gärtner");
        assert_eq!(shown("O=A\\, B\\\\C, CN=x"), "O=A\\, B\\\\C, CN=x");
        assert_eq!(
            shown("emailAddress=a@b.example, DC=example, 1.2.3.4=x"),
            "E=a@b.example, DC=example, 1.2.3.4=x"
        );
        for bad in [
            "",
            "=",
            "CN",
            "CN=",
            "FOO=x",
            "CN=a,",
            "CN=a\\",
            &"CN=x,".repeat(900),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_back() {
        for text in ["CN=a\\1b[2J", "CN=\\e2\\80\\ae x", "CN=tab\\09, O=\\\\"] {
            let der = parse(text).unwrap();
            let again = show(&der).unwrap();
            assert!(again.chars().all(|c| !c.is_control()), "{again}");
            assert_eq!(parse(&again).unwrap(), der, "{again}");
        }
        assert_eq!(show(b"\x30\x03abc"), None);
        assert_eq!(show(&[]), None);
    }

    #[test]
    fn comparison_knows_string_types_and_case() {
        let utf8 = {
            let value = Any::new(Tag::Utf8String, b"LAB  gw".to_vec()).unwrap();
            let oid = "2.5.4.3".parse().unwrap();
            let set = SetOfVec::try_from(vec![AttributeTypeAndValue { oid, value }]).unwrap();
            let mut rdns = RdnSequence::default();
            rdns.push(RelativeDistinguishedName::from(set));
            rdns.to_der().unwrap()
        };
        assert!(same(&parse("CN=lab gw").unwrap(), &utf8));
        assert!(!same(&parse("CN=lab").unwrap(), &utf8));
        assert!(!same(&parse("O=lab gw").unwrap(), &utf8));
        assert!(!same(&parse("CN=lab gw, O=x").unwrap(), &utf8));
        assert!(!same(b"", &utf8));
    }

    #[test]
    fn a_star_stands_for_one_value() {
        let pattern = parse("C=CH, O=Lab, CN=*").unwrap();
        assert!(is_pattern(&pattern));
        assert!(fits(&pattern, &parse("C=ch, O=Lab, CN=client-7").unwrap()));
        for other in [
            "C=CH, O=Lab",
            "C=CH, O=Other, CN=x",
            "C=CH, O=Lab, OU=x",
            "O=Lab, C=CH, CN=x",
            "C=CH, O=Lab, CN=x, CN=y",
        ] {
            let other = parse(other).unwrap();
            assert!(!fits(&pattern, &other) && !is_pattern(&other));
        }
        // A star in the name itself is no pattern for the pattern's value.
        let literal = parse("C=CH, O=*, CN=x").unwrap();
        assert!(!fits(&pattern, &literal));
    }
}
