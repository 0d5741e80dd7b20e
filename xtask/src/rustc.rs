//! What a rustc says of itself.

/// The oldest one that the workspace's `rust-version` admits.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// As in `1.96.0` or `1.97.0-nightly`.
    pub release: String,
    /// Major version. bpf-linker must have the same, because it reads rustc's bitcode.
    pub llvm: u32,
}

impl Version {
    /// Takes the output of `rustc -vV`; the error says why that compiler won't do.
    pub fn usable(name: &str, output: &str) -> Result<Self, String> {
        let version = parse(output).ok_or(format!("{name} does not say which LLVM it has"))?;
        if minor(&version.release) < minor(OLDEST) {
            let release = version.release;
            return Err(format!("{name} is {release}, older than {OLDEST}"));
        }
        Ok(version)
    }
}

fn parse(output: &str) -> Option<Version> {
    let field = |name: &str| output.lines().find_map(|line| line.strip_prefix(name));
    let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    let release = field("release: ")?.to_owned();
    Some(Version { release, llvm })
}

/// `1.97.0-nightly` as (1, 97), which compares as versions do.
fn minor(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "\
rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)
binary: rustc
commit-hash: ac68faa20c58cbccd01ee7208bf3b6e93a7d7f96
commit-date: 2026-05-25
host: x86_64-unknown-linux-gnu
release: 1.96.0
LLVM version: 22.1.8
";

    #[test]
    fn release_and_llvm_major_are_read() {
        let version = Version::usable("rustc", DEBIAN).unwrap();
        assert_eq!((version.release.as_str(), version.llvm), ("1.96.0", 22));
    }

    #[test]
    fn a_nightly_is_newer_than_the_oldest() {
        let nightly = DEBIAN.replace("release: 1.96.0", "release: 1.100.0-nightly");
        assert!(Version::usable("rustc", &nightly).is_ok());
    }

    #[test]
    fn too_old_a_compiler_is_named() {
        let old = DEBIAN.replace("release: 1.96.0", "release: 1.85.0");
        let why = Version::usable("/usr/bin/rustc", &old).unwrap_err();
        assert_eq!(
            why,
            format!("/usr/bin/rustc is 1.85.0, older than {OLDEST}")
        );
    }

    #[test]
    fn a_compiler_without_llvm_is_refused() {
        let other = DEBIAN.replace("LLVM version", "Backend");
        assert!(Version::usable("rustc", &other).is_err());
    }
}
