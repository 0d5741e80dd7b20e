//! What stays of a header's TLVs for as long as its connection lives.

use truepeer::header::{KeptTlvs, Ssl, SslClient, SslSub, Tlv, V2Builder, kind};

use crate::{complete, ends, tlv, with_tlvs};

fn keep(header: &[u8]) -> KeptTlvs {
    complete(header).0.tlvs.keep()
}

/// The TLVs of `header`, shown as a log shows them.
fn shown(header: &[u8]) -> String {
    format!("{:?}", complete(header).0.tlvs)
}

#[test]
fn what_fits_is_kept_as_it_was_sent() {
    let tlvs = [
        tlv(kind::ALPN, b"h2"),
        tlv(0xe7, b""),
        tlv(kind::AUTHORITY, &[b'a'; 255]),
        tlv(kind::AZURE, &[1, 1, 2, 3, 4]),
        tlv(0xe7, b"again"),
    ];
    let header = with_tlvs(&tlvs.concat());
    let kept = keep(&header);
    assert_eq!(format!("{:?}", kept.view()), shown(&header));
    assert_eq!(kept.left_out(), 0);
    assert_eq!(keep(&with_tlvs(b"")), KeptTlvs::default());
}

/// [SEC-4]
#[test]
fn what_does_not_fit_is_left_out_and_counted() {
    let value = [b'x'; KeptTlvs::MAX_LEN - 3];
    for (len, left_out) in [(value.len(), 1), (value.len() - 3, 0), (value.len() - 4, 0)] {
        let tlvs = [tlv(0xe7, &value[..len]), tlv(kind::NOOP, b"")];
        let kept = keep(&with_tlvs(&tlvs.concat()));
        assert_eq!(kept.left_out(), left_out, "{len}");
        assert_eq!(kept.view().iter().count(), 2 - usize::from(left_out));
    }
    // and what comes after a long one still has its chance
    let tlvs = [tlv(0xe0, &[b'x'; 1200]), tlv(kind::ALPN, b"h2")];
    let kept = keep(&with_tlvs(&tlvs.concat()));
    assert!(matches!(kept.view().iter().next(), Some(Tlv::Alpn(_))));
    assert_eq!(kept.left_out(), 1);
}

/// [V2-26]
#[test]
fn a_certificate_alone_is_left_out_of_what_is_said_of_tls() {
    let subs: [(u8, &[u8]); 3] = [(0x21, b"TLSv1.3"), (0x28, &[0x30; 1200]), (0x22, b"CN")];
    let builder = V2Builder::stream(&ends("192.0.2.1:1", "192.0.2.2:2"));
    let client = SslClient::SSL | SslClient::CERT_CONN;
    let header = builder
        .ssl(client, 0, &subs)
        .build()
        .expect("a short header");
    let kept = keep(&header);
    assert_eq!(kept.left_out(), 1);
    let ssl: Vec<Ssl<'_>> = kept
        .view()
        .iter()
        .filter_map(|tlv| match tlv {
            Tlv::Ssl(ssl) => Some(ssl),
            _ => None,
        })
        .collect();
    let [ssl] = ssl[..] else {
        panic!("{ssl:?}");
    };
    assert_eq!(ssl.client, client);
    assert_eq!(
        ssl.verified_common_name().map(|name| name.as_bytes()),
        Some(&b"CN"[..])
    );
    let certificate = |sub: &SslSub<'_>| matches!(sub, SslSub::ClientCert(_));
    assert_eq!(ssl.subs.iter().filter(certificate).count(), 0);
    assert_eq!(ssl.subs.iter().count(), 2);
}
