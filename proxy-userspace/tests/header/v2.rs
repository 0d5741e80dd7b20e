//! The fixed part of version 2: signature, command, family, length, addresses.

use truepeer::header::{Command, Policy, V2Builder, parse};

use crate::{
    INET, SIGNATURE, assert_waits_for_all_of, complete, datagram, ends, is_partial, raw_v2,
    refused, tlv,
};

fn inet6() -> Vec<u8> {
    let mut block = vec![0x20; 16];
    block.extend([0x26; 16]);
    block.extend([0x01, 0x02, 0xff, 0xfe]);
    block
}

/// [V2-1] [V2-3] Every byte of the signature counts, the NUL too; a part of it is waited for.
#[test]
fn v2_1_and_v2_3_compare_the_whole_signature() {
    assert_waits_for_all_of(&raw_v2(0x21, 0x11, INET));
    for at in 0..SIGNATURE.len() {
        let mut header = raw_v2(0x21, 0x11, INET);
        header[at] ^= 0x80;
        assert_eq!(refused(&header), "bad_signature");
        assert_eq!(refused(&header[..=at]), "bad_signature");
    }
}

/// [V2-2] [V2-9] [V2-14] The families' blocks, and a payload that isn't touched.
#[test]
fn v2_9_reads_addresses() {
    let v4 = [&raw_v2(0x21, 0x11, INET)[..], b"payload"].concat();
    let (header, len) = complete(&v4);
    assert_eq!(header.command, Command::Proxy);
    assert_eq!(
        header.endpoints,
        Some(ends("192.0.2.1:40000", "198.51.100.2:443"))
    );
    assert_eq!(len, 28);

    let v6 = raw_v2(0x21, 0x21, &inet6());
    let (header, len) = complete(&v6);
    let group = |byte: &str| vec![byte.repeat(2); 8].join(":");
    let (a, b) = (
        format!("[{}]:258", group("20")),
        format!("[{}]:65534", group("26")),
    );
    assert_eq!(header.endpoints, Some(ends(&a, &b)));
    assert_eq!(len, 52);
}

/// [V2-4] [V2-5] [V2-7] Version 2 and the commands 0 and 1, of all 256 bytes.
#[test]
fn v2_4_and_v2_7_refuse_other_versions_and_commands() {
    for byte in 0..=255 {
        let header = raw_v2(byte, 0x11, INET);
        match byte {
            0x20 => assert_eq!(complete(&header).0.command, Command::Local),
            0x21 => assert_eq!(complete(&header).0.command, Command::Proxy),
            0x22..=0x2f => assert_eq!(refused(&header), "bad_command"),
            _ => assert_eq!(refused(&header), "bad_version"),
        }
    }
}

/// [V2-6] [V2-12] LOCAL has no addresses, whatever the family, and its block is skipped unread.
#[test]
fn v2_6_skips_the_block_of_local() {
    for family in 0..=255 {
        for body in [&b""[..], b"\x01", b"\x03\0\x04junk", INET, &[0xff; 300]] {
            let header = raw_v2(0x20, family, body);
            assert_waits_for_all_of(&header);
            let (local, len) = complete(&header);
            assert_eq!((local.endpoints, len), (None, header.len()));
            assert!(local.tlvs.is_empty());
        }
    }
}

/// [V2-8] [V2-28] UNSPEC has no addresses, whatever it carries.
#[test]
fn v2_8_takes_unspec_without_addresses() {
    for family in [0x00, 0x01, 0x02, 0x10, 0x20, 0x30] {
        for body in [&b""[..], b"\x01", INET, &[0xff; 300]] {
            let header = raw_v2(0x21, family, body);
            let (unspec, len) = complete(&header);
            assert_eq!((unspec.endpoints, len), (None, header.len()));
        }
    }
}

/// [V2-8] [V2-21] What does read as TLVs is checked under UNSPEC too.
#[test]
fn v2_8_checks_tlvs_of_unspec() {
    let header = V2Builder::unspec()
        .tlv(1, b"h2")
        .crc32c()
        .build()
        .expect("a short header");
    assert_eq!(complete(&header).0.tlvs.iter().count(), 2);
    assert_eq!(
        refused(&raw_v2(0x21, 0x00, &tlv(3, b"\0\0\0\0"))),
        "crc_mismatch"
    );
}

/// [V2-9] [V2-10] [V2-28] [U-3] The family byte, of all 256, on a stream and in a datagram.
#[test]
fn v2_10_refuses_unknown_families() {
    for family in 0..=255 {
        let header = raw_v2(0x21, family, &[0; 216]);
        let stream = parse(&header, &Policy::default()).map_err(|refusal| refusal.name());
        let (stream, datagram) = (stream.map(drop), datagram(&header).map(drop));
        let (on_stream, in_datagram) = match family {
            0x00..=0x02 | 0x10 | 0x20 | 0x30 => (Ok(()), Ok(())),
            0x11 | 0x21 | 0x31 => (Ok(()), Err("transport_mismatch")),
            0x12 | 0x22 | 0x32 => (Err("transport_mismatch"), Ok(())),
            _ => (Err("bad_family"), Err("bad_family")),
        };
        assert_eq!(
            (stream, datagram),
            (on_stream, in_datagram),
            "{family:#04x}"
        );
    }
}

/// [V2-11] A length below the family's block isn't made up for from the payload.
#[test]
fn v2_11_refuses_short_blocks() {
    for (family, needed) in [(0x11, 12), (0x21, 36), (0x31, 216)] {
        for len in [0, 1, needed - 1] {
            let header = raw_v2(0x21, family, &vec![0; len]);
            let with_payload = [header, vec![0; 300]].concat();
            assert_eq!(refused(&with_payload), "address_block_short");
        }
        complete(&raw_v2(0x21, family, &vec![0; needed]));
    }
}

/// [V2-13] 4 KiB by default, up to all that can be encoded, and refused at the length field.
#[test]
fn v2_13_limits_the_length() {
    let padded = |len: usize| V2Builder::unspec().tlv(4, &vec![0; len - 19]).build();
    for len in [536, 1300, 4096] {
        assert_eq!(complete(&padded(len).expect("an encodable header")).1, len);
    }
    let longer = padded(4097).expect("an encodable header");
    assert_eq!(refused(&longer[..16]), "header_too_long");

    let largest = padded(Policy::LARGEST_MAX_LEN).expect("an encodable header");
    let policy = Policy {
        max_len: Policy::LARGEST_MAX_LEN,
        ..Policy::default()
    };
    assert!(parse(&largest, &policy).is_ok());
    assert_eq!(largest.len(), 16 + 65535);
}

/// [V2-13] A long LOCAL is held to the limit as well.
#[test]
fn v2_13_limits_local() {
    assert_eq!(refused(&raw_v2(0x20, 0, &[0; 4081])), "header_too_long");
}

/// [V2-27] [V2-28] UNIX paths are skipped in every form, and what follows them is read.
#[test]
fn v2_27_takes_unix_without_addresses() {
    let path = |bytes: &[u8]| [bytes, &vec![0; 108 - bytes.len()]].concat();
    for source in [
        path(b""),
        path(b"/run/app"),
        path(b"\0abstract"),
        vec![b'x'; 108],
    ] {
        let body = [source, path(b""), tlv(1, b"h2")].concat();
        let header = raw_v2(0x21, 0x31, &body);
        let (unix, len) = complete(&header);
        assert_eq!((unix.endpoints, len), (None, header.len()));
        assert_eq!(unix.tlvs.iter().count(), 1);
    }
    assert_eq!(
        refused(&raw_v2(0x21, 0x31, &[0; 215])),
        "address_block_short"
    );
}

/// [V2-29] The block is read when all of it is in.
#[test]
fn v2_29_waits_for_the_whole_block() {
    let header = raw_v2(0x21, 0x21, &[inet6(), tlv(1, b"h2")].concat());
    assert_waits_for_all_of(&header);
    assert!(is_partial(&header[..52]));
}
