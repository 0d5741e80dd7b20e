//! Certificates for one test, and TLS clients that show them.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// An authority, a certificate of the front's, and one of a client's.
pub struct Pki(TempDir);

impl Pki {
    /// The front's name, which clients ask for by SNI.
    pub const FRONT: &str = "front.test";
    /// The common name of the client's certificate.
    pub const VISITOR: &str = "visitor";

    pub fn new() -> Result<Self> {
        let pki = Self(TempDir::new()?);
        let curve = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
        // RSA where it makes the client's certificate long: headers shall be as long as they come
        let long = ["rsa:2048"];
        pki.certify("ca", "lab", &long, &[])?;
        let signed = ["-CA", "ca.crt", "-CAkey", "ca.key"];
        // Some believe no server that could be an authority itself.
        let signed = [&signed[..], &["-addext", "basicConstraints=CA:FALSE"]].concat();
        let name = format!("subjectAltName=DNS:{}", Self::FRONT);
        let named = [&signed[..], &["-addext", &name]].concat();
        pki.certify("front", Self::FRONT, &curve, &named)?;
        pki.certify("visitor", Self::VISITOR, &long, &signed)?;
        let both = [pki.read("front.crt")?, pki.read("front.key")?];
        fs::write(pki.path("front.pem"), both.concat())?;
        Ok(pki)
    }

    /// Of `ca`, `front` and `visitor` there are .crt and .key, of `front` also both in .pem.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn read(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.path(name)).with_context(|| name.to_owned())
    }

    /// `openssl s_client` from `client` to `front`, which prints what the server says.
    pub fn s_client(&self, client: SocketAddr, front: SocketAddr) -> Command {
        let mut command = Command::new("openssl");
        // -quiet also means to stay when standard input ends
        command.args(["s_client", "-quiet", "-verify_return_error"]);
        command.args(["-bind", &client.to_string()]);
        command.args(["-connect", &front.to_string()]);
        command.args(["-servername", Self::FRONT, "-alpn", "http/1.1"]);
        command.arg("-CAfile").arg(self.path("ca.crt"));
        command.arg("-cert").arg(self.path("visitor.crt"));
        command.arg("-key").arg(self.path("visitor.key"));
        command
    }

    /// What makes curl ask `front` by its name over TLS; ends with the URL.
    pub fn curl(&self, command: &mut Command, front: SocketAddr) {
        let (name, port) = (Self::FRONT, front.port());
        let address = front.to_string();
        let ip = address.trim_end_matches(&format!(":{port}"));
        command.args(["--resolve", &format!("{name}:{port}:{ip}")]);
        command.arg("--cacert").arg(self.path("ca.crt"));
        command.arg("--cert").arg(self.path("visitor.crt"));
        command.arg("--key").arg(self.path("visitor.key"));
        command.arg(format!("https://{name}:{port}/"));
    }

    fn certify(&self, file: &str, name: &str, key: &[&str], more: &[&str]) -> Result<()> {
        let mut openssl = Command::new("openssl");
        openssl
            .current_dir(&self.0)
            .args(["req", "-x509", "-nodes"]);
        openssl.args(["-days", "2", "-subj", &format!("/CN={name}")]);
        openssl.args(["-keyout", &format!("{file}.key")]);
        openssl.args(["-out", &format!("{file}.crt")]);
        openssl.arg("-newkey").args(key).args(more);
        let output = openssl.output().context("starting openssl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "openssl: {said}");
        Ok(())
    }
}
