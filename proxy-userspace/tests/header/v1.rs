//! The line of version 1, accepted and refused.

use crate::{assert_waits_for_all_of, complete, ends, is_partial, refused};

fn line(fields: &str) -> Vec<u8> {
    format!("PROXY {fields}\r\n").into_bytes()
}

/// An UNKNOWN line of `len` bytes, CRLF included.
fn unknown(len: usize) -> Vec<u8> {
    let padding = len - "PROXY UNKNOWN \r\n".len();
    line(&format!("UNKNOWN {}", "f".repeat(padding)))
}

#[test]
fn accepts() {
    for (rules, fields, a, b) in [
        (
            "[V1-1] [V1-4] [V1-12]",
            "TCP4 192.0.2.1 198.51.100.2 40000 443",
            "192.0.2.1:40000",
            "198.51.100.2:443",
        ),
        (
            "[V1-7] [V1-10] [V1-11] the smallest and largest numbers",
            "TCP4 0.0.0.0 255.255.255.255 0 65535",
            "0.0.0.0:0",
            "255.255.255.255:65535",
        ),
        (
            "[V1-8] either case, heading zeroes in groups, one `::` anywhere",
            "TCP6 2001:0DB8::aBcD ::1 1 2",
            "[2001:db8::abcd]:1",
            "[::1]:2",
        ),
        (
            "[V1-8] a `::` for one group, none at all",
            "TCP6 1:2:3:4:5:6:7:: 1:2:3:4:5:6:7:8 1 2",
            "[1:2:3:4:5:6:7:0]:1",
            "[1:2:3:4:5:6:7:8]:2",
        ),
        (
            "[V1-8] [V1-9] a dotted tail is IPv6 too",
            "TCP6 ::ffff:1.2.3.4 1:2:3:4:5:6:7.8.9.10 1 2",
            "[::ffff:1.2.3.4]:1",
            "[1:2:3:4:5:6:708:90a]:2",
        ),
    ] {
        let line = line(fields);
        let (header, len) = complete(&line);
        assert_eq!(header.endpoints, Some(ends(a, b)), "{rules}");
        assert_eq!(len, line.len(), "{rules}");
    }
}

/// A mapped client is left as sent, and one call away from the IPv4 client that it is.
#[test]
fn v1_8_mapped_addresses_have_a_canonical_form() {
    let line = line("TCP6 ::ffff:1.2.3.4 ::ffff:506:708 1 2");
    let stated = complete(&line).0.endpoints.expect("addresses");
    assert_eq!(stated, ends("[::ffff:1.2.3.4]:1", "[::ffff:5.6.7.8]:2"));
    assert_eq!(stated.canonical(), ends("1.2.3.4:1", "5.6.7.8:2"));
}

#[test]
fn refuses() {
    for (rules, buf, reason) in [
        (
            "[V1-2]",
            "PROXYTCP4 1.2.3.4 5.6.7.8 1 2\r\n",
            "bad_signature",
        ),
        (
            "[V1-2]",
            "PROXYx TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
            "bad_signature",
        ),
        (
            "[V1-2]",
            "proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
            "bad_signature",
        ),
        (
            "[V1-1]",
            " PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
            "bad_signature",
        ),
        (
            "[V1-3]",
            "PROXY\tTCP4 1.2.3.4 5.6.7.8 1 2\r\n",
            "bad_signature",
        ),
        (
            "[V1-3]",
            "PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
            "v1_bad_protocol",
        ),
        (
            "[V1-3]",
            "PROXY TCP4\t1.2.3.4 5.6.7.8 1 2\r\n",
            "v1_bad_protocol",
        ),
        (
            "[V1-3]",
            "PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
            "v1_field_count",
        ),
        (
            "[V1-3]",
            "PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n",
            "v1_field_count",
        ),
        (
            "[V1-3]",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1  2\r\n",
            "v1_field_count",
        ),
        (
            "[V1-3]",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
            "v1_field_count",
        ),
        (
            "[V1-3]",
            "PROXY TCP4 1.2.3.4 5.6.7.8\t1 2\r\n",
            "v1_bad_address",
        ),
        (
            "[V1-4]",
            "PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n",
            "v1_bad_protocol",
        ),
        (
            "[V1-4]",
            "PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
            "v1_bad_protocol",
        ),
        (
            "[V1-4]",
            "PROXY TCP 1.2.3.4 5.6.7.8 1 2\r\n",
            "v1_bad_protocol",
        ),
        ("[V1-4]", "PROXY UNKNOWNX\r\n", "v1_bad_protocol"),
        ("[V1-4]", "PROXY \r\n", "v1_bad_protocol"),
        ("[V1-12]", "PROXY TCP4\r\n", "v1_bad_protocol"),
        (
            "[V1-12]",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            "v1_field_count",
        ),
        ("[V1-12]", "PROXY TCP4 1.2.3.4\r\n", "v1_field_count"),
        (
            "[V1-12]",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
            "v1_field_count",
        ),
        (
            "[V1-12]",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 \r\n",
            "port_not_decimal",
        ),
        (
            "[V1-16]",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
            "v1_lone_line_end",
        ),
        (
            "[V1-16]",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rx",
            "v1_lone_line_end",
        ),
        (
            "[V1-16]",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\r\n",
            "v1_lone_line_end",
        ),
        ("[V1-16]", "PROXY UNKNOWN x\nGET /\r\n", "v1_lone_line_end"),
        ("[V1-16]", "PROXY UNKNOWN x\ry\r\n", "v1_lone_line_end"),
        ("[V1-16]", "PROXY UNKNOWN\n", "v1_bad_protocol"),
        (
            "[V1-17]",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\0\r\n",
            "port_not_decimal",
        ),
        ("[V1-17]", "PROXY TCP6 ::é ::1 1 2\r\n", "v1_bad_address"),
    ] {
        assert_eq!(refused(buf.as_bytes()), reason, "{rules} {buf:?}");
    }
}

/// [V1-7] [V1-9] What some resolvers take for an IPv4 address.
#[test]
fn v1_7_refuses_other_spellings() {
    for address in [
        "1.2.3",
        "1.2",
        "1",
        "1.2.3.4.5",
        "1.2.3.",
        ".1.2.3.4",
        "1..3.4",
        "1.2.3.256",
        "1.2.3.999",
        "010.0.0.1",
        "1.2.3.04",
        "00.0.0.0",
        "0x7f.0.0.1",
        "2130706433",
        "1.2.3.+4",
        "1.2.3.-4",
        "1.2.3.4:5",
        "1.2.3.4/32",
        "localhost",
        "::1",
        "::ffff:1.2.3.4",
        "1.2.3.4294967297",
        "",
    ] {
        for fields in [
            format!("TCP4 {address} 5.6.7.8 1 2"),
            format!("TCP4 5.6.7.8 {address} 1 2"),
        ] {
            let expected = if address.is_empty() {
                "v1_field_count"
            } else {
                "v1_bad_address"
            };
            assert_eq!(refused(&line(&fields)), expected, "{fields}");
        }
    }
}

/// [V1-8] [V1-9]
#[test]
fn v1_8_refuses_other_spellings() {
    for address in [
        "1:2:3:4:5:6:7",
        "1:2:3:4:5:6:7:8:9",
        "1:2:3:4:5:6:7:8::",
        "::1:2:3:4:5:6:7:8",
        "1:2:3:4::5:6:7:8",
        "1::2::3",
        ":::",
        ":1",
        "1:",
        "12345::",
        "00001::",
        "g::",
        "[::1]",
        "fe80::1%eth0",
        "fe80::1%1",
        "::1/128",
        "::ffff:1.2.3",
        "::ffff:1.2.3.04",
        "::ffff:1.2.3.256",
        "::1.2.3.4:5",
        "1.2.3.4::",
        "1:2:3:4:5:6:7:1.2.3.4",
        "1.2.3.4",
        "::+1",
        "::-1",
        "0x1::",
        "1:2:3:4:5:1.2.3.4",
    ] {
        for fields in [
            format!("TCP6 {address} ::1 1 2"),
            format!("TCP6 ::1 {address} 1 2"),
        ] {
            assert_eq!(refused(&line(&fields)), "v1_bad_address", "{fields}");
        }
    }
}

/// [V1-10] [V1-11]
#[test]
fn v1_10_and_v1_11_refuse_other_ports() {
    for (port, reason) in [
        ("65536", "port_out_of_range"),
        ("65616", "port_out_of_range"),
        ("99999", "port_out_of_range"),
        ("100000", "port_out_of_range"),
        ("4294967376", "port_out_of_range"),
        ("18446744073709551696", "port_out_of_range"),
        ("080", "port_leading_zero"),
        ("00", "port_leading_zero"),
        ("000080", "port_leading_zero"),
        ("+80", "port_not_decimal"),
        ("-1", "port_not_decimal"),
        ("0x50", "port_not_decimal"),
        ("8a", "port_not_decimal"),
        ("80.", "port_not_decimal"),
        ("http", "port_not_decimal"),
    ] {
        for fields in [
            format!("TCP4 1.2.3.4 5.6.7.8 {port} 2"),
            format!("TCP4 1.2.3.4 5.6.7.8 1 {port}"),
            format!("TCP6 ::1 ::2 {port} 2"),
            format!("TCP6 ::1 ::2 1 {port}"),
        ] {
            assert_eq!(refused(&line(&fields)), reason, "{fields}");
        }
    }
}

/// [V1-5] UNKNOWN is accepted, short or long, and its addresses are never used.
#[test]
fn v1_5_takes_unknown_without_addresses() {
    for fields in [
        "UNKNOWN",
        "UNKNOWN ",
        "UNKNOWN 1.2.3.4 5.6.7.8 1 2",
        "UNKNOWN ffff::1 ffff::2 65535 65535",
        "UNKNOWN  anything\t+80 at all \x7f\u{e9}",
    ] {
        let line = line(fields);
        let (header, len) = complete(&line);
        assert_eq!((header.endpoints, len), (None, line.len()), "{fields}");
    }
}

/// [V1-13] [V1-18] Digits may be missing until the CRLF, so nothing before it is an answer.
#[test]
fn v1_13_waits_for_the_line_end() {
    assert_waits_for_all_of(&line("TCP4 1.2.3.4 5.6.7.8 1 2"));
    assert_waits_for_all_of(&line("TCP6 2001:db8::1 ::ffff:5.6.7.8 40000 443"));
    assert!(is_partial(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999"));
    assert_eq!(
        refused(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n"),
        "port_out_of_range"
    );
}

/// [V1-14] The longest lines of each protocol.
#[test]
fn v1_14_takes_the_longest_lines() {
    let group = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    for (fields, len) in [
        (
            "TCP4 255.255.255.255 255.255.255.255 65535 65535".to_owned(),
            56,
        ),
        (format!("TCP6 {group} {group} 65535 65535"), 104),
        (format!("UNKNOWN {group} {group} 65535 65535"), 107),
    ] {
        assert_eq!(complete(&line(&fields)).1, len);
    }
}

/// [V1-15] 107 bytes with the CRLF are the most, and it shows as soon as it can't fit.
#[test]
fn v1_15_refuses_longer_lines() {
    assert_eq!(complete(&unknown(107)).1, 107);
    assert_eq!(refused(&unknown(108)), "v1_no_crlf");
    let endless = unknown(400);
    assert!(is_partial(&endless[..105]));
    assert_eq!(refused(&endless[..106]), "v1_no_crlf");
    assert!(is_partial(&unknown(107)[..106]));
    let hosts = format!("PROXY TCP6 {}", "f".repeat(95));
    assert_eq!(refused(hosts.as_bytes()), "v1_no_crlf");
}
