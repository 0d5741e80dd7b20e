//! What a connection's header costs. Aims: v2 over IPv4 below 100 ns, a v1 TCP4 line below 300 ns.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use truepeer::header::{Endpoints, Policy, SslClient, V2Builder, parse, spp, write};

fn ends(a: &str, b: &str) -> Endpoints {
    Endpoints {
        source: a.parse().expect("a socket address"),
        destination: b.parse().expect("a socket address"),
    }
}

fn headers() -> [(&'static str, Vec<u8>); 6] {
    let v4 = ends("203.0.113.200:54321", "198.51.100.200:44300");
    let v6 = ends("[2001:db8:1:2:3:4:5:6]:54321", "[2001:db8::1]:44300");
    let built = |builder: V2Builder| builder.build().expect("a short header");
    let tlvs = |builder: V2Builder| {
        let named = builder.tlv(1, b"h2").tlv(2, b"www.example.com");
        named.ssl(SslClient::SSL, 0, &[(0x21, b"TLSv1.3")]).crc32c()
    };
    [
        ("v1_tcp4", write::v1(Some(&v4)).into_bytes()),
        ("v1_tcp6", write::v1(Some(&v6)).into_bytes()),
        ("v2_inet", built(V2Builder::stream(&v4))),
        ("v2_inet6", built(V2Builder::stream(&v6))),
        ("v2_inet_tlvs_crc", built(tlvs(V2Builder::stream(&v4)))),
        ("v2_local", built(V2Builder::local())),
    ]
}

fn header(c: &mut Criterion) {
    let policy = Policy::default();
    for (name, bytes) in headers() {
        c.bench_function(name, |b| {
            b.iter(|| parse(black_box(&bytes), &policy).is_ok())
        });
    }
    let spp = spp::write(&ends("192.0.2.1:1", "192.0.2.2:2"));
    c.bench_function("spp", |b| b.iter(|| spp::parse(black_box(&spp)).is_ok()));
}

criterion_group!(benches, header);
criterion_main!(benches);
