//! The .rpm in a root of its own: what they need is there, their scriptlets run, what they installed is verified, and
//! nothing is left when they are erased but what people changed and the users.
//!
//! The root is the Debian host's, with an empty database of rpm's. What its libraries provide is put in there as a package
//! that stands in for a distribution, so that requirements are checked and not ignored.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use coms_lab::workspace_root;
use coms_packages::{Result, Said, must, packages, run, text};
use std::path::{Path, PathBuf};

/// What distributions have that the programs may count on. Newer ones would keep them off older machines.
const GLIBC_AT_MOST: (u32, u32) = (2, 34);

struct Root {
    top: PathBuf,
}

impl Root {
    fn new() -> Result<Root> {
        let top = std::env::temp_dir().join(format!("coms-rpm-{}", std::process::id()));
        std::fs::create_dir_all(top.join("rpms"))?;
        Ok(Root { top })
    }

    /// Runs a shell's lines in a fresh root, in which the packages are in /rpms.
    fn run(&self, lines: &str) -> Result<Said> {
        let image = text(&workspace_root().join("target/lab-cache/host"));
        let rpms = format!("--bind-ro={}:/rpms", self.top.join("rpms").display());
        let nspawn = [
            "systemd-nspawn",
            "--quiet",
            "--read-only",
            "--volatile=overlay",
            "--register=no",
            "--keep-unit",
        ];
        let more = [
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            "--pipe",
            &rpms,
            "--directory",
            &image,
        ];
        run(&[&nspawn[..], &more[..], &["sh", "-ec", lines]].concat())
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.top);
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect()
}

/// What a package needs of its distribution: neither of rpm itself nor of itself.
fn needs(rpm: &Path) -> Result<Vec<String>> {
    let all = lines(&must(&["rpm", "-qp", "--requires", &text(rpm)])?);
    let own = ["rpmlib(", "config(", "coms-agent >="];
    Ok(all.into_iter().filter(|r| !own.iter().any(|o| r.starts_with(o))).collect())
}

#[test]
fn they_need_little_and_nothing_new() -> Result<()> {
    let p = packages()?;
    for guests in [&p.agent_rpm, &p.plugins_rpm] {
        let needed = needs(guests)?;
        assert!(
            needed.iter().all(|r| ["/bin/sh", "systemd", "rtld(GNU_HASH)"].contains(&r.as_str())),
            "{} is static: {needed:?}",
            guests.display()
        );
    }
    let broker = needs(&p.broker_rpm)?;
    println!("coms-broker needs: {}", broker.join(", "));
    assert!(broker.iter().any(|r| r.starts_with("libvirt.so.0")), "{broker:?}");
    for need in &broker {
        let known =
            ["/bin/sh", "systemd", "libvirt", "libc.so", "libgcc_s.so", "libm.so", "ld-linux", "rtld("];
        assert!(known.iter().any(|k| need.starts_with(k)), "what is {need}?");
        if let Some((_, version)) = need.split_once("GLIBC_") {
            let version: Vec<u32> = version.split(['.', ')']).map_while(|n| n.parse().ok()).collect();
            assert!((version[0], version[1]) <= GLIBC_AT_MOST, "{need}: newer than {GLIBC_AT_MOST:?}");
        }
    }
    Ok(())
}

#[test]
fn installed_verified_upgraded_and_erased() -> Result<()> {
    let p = packages()?;
    let root = Root::new()?;
    for rpm in p.rpms() {
        std::fs::copy(rpm, root.top.join("rpms").join(rpm.file_name().unwrap()))?;
    }
    let needed: Vec<Vec<String>> = p.rpms().into_iter().map(|rpm| needs(rpm)).collect::<Result<_>>()?;
    stand_in(&root, &needed.concat())?;
    let said = root.run(
        r#"
        rpm --initdb
        # Without what it needs it is refused.
        if rpm -i --test /rpms/coms-broker-*.rpm 2>/tmp/why; then echo "not refused"; exit 1; fi
        grep -q libvirt.so.0 /tmp/why
        rpm -i /rpms/stand-in-*.rpm
        if rpm -i --test /rpms/coms-plugins-*.rpm 2>/tmp/why; then echo "not refused"; exit 1; fi
        grep -q 'coms-agent >= ' /tmp/why
        # Directories that such a distribution's first package has.
        mkdir -p /usr/share/fish/vendor_completions.d /usr/share/licenses /usr/share/zsh/site-functions
        find / -xdev ! -path '/proc/*' ! -path '/var/lib/rpm/*' ! -path '/root/.rpmdb*' ! -path '/tmp/*' | sort >/tmp/before
        rpm -i /rpms/coms-agent-*.rpm /rpms/coms-plugins-*.rpm /rpms/coms-broker-*.rpm
        rpm -V coms-agent coms-plugins coms-broker
        getent passwd coms-agent coms-plugins coms-probe >/dev/null; getent group coms-admin >/dev/null; test -d /var/lib/coms
        coms-agent --check
        comsctl config check
        coms plugin check
        rpm -q --scripts coms-agent coms-plugins coms-broker | grep -c scriptlet
        echo '# mine' >>/etc/coms/agent.toml
        rpm -V coms-agent | grep '^S.*c /etc/coms/agent.toml'
        rpm -U --force /rpms/coms-agent-*.rpm
        tail -n 1 /etc/coms/agent.toml
        rpm -e coms-agent coms-plugins coms-broker
        ls /etc/coms
        find / -xdev ! -path '/proc/*' ! -path '/var/lib/rpm/*' ! -path '/root/.rpmdb*' ! -path '/tmp/*' | sort >/tmp/after
        diff /tmp/before /tmp/after | grep -v -E '/etc/(passwd|group|shadow|gshadow)-|/etc/.pwd.lock' || :
        "#,
    )?;
    println!("{}{}", said.out, said.err);
    assert_eq!(said.status, 0);
    assert!(said.out.contains("# mine") && said.out.contains("S.5....T.  c /etc/coms/agent.toml"));
    // What was changed is kept aside; what the daemon would have written is nobody's package.
    let left: Vec<&str> = said.out.lines().filter(|l| l.starts_with(['<', '>'])).collect();
    let known = ["> /etc/coms", "> /etc/coms/agent.toml.rpmsave", "> /var/lib/coms"];
    assert!(left.iter().all(|l| known.contains(l)), "left: {left:#?}");
    Ok(())
}

/// A package that provides what this root really has of what is needed.
fn stand_in(root: &Root, needed: &[String]) -> Result<()> {
    let provided = root.run(
        "for lib in /lib/x86_64-linux-gnu/lib*.so.* /usr/lib/x86_64-linux-gnu/lib*.so.* /lib64/ld-linux*; do \
         echo \"$lib\"; done | sort -u | /usr/lib/rpm/elfdeps --provides",
    )?;
    let mut provided = lines(&provided.out);
    provided.extend(["/bin/sh", "systemd", "rtld(GNU_HASH)"].map(str::to_owned));
    let missing: Vec<&String> = needed.iter().filter(|n| !provided.contains(n)).collect();
    assert!(missing.is_empty(), "this Debian lacks {missing:?}");
    let mut spec =
        "Name: stand-in\nVersion: 1\nRelease: 1\nSummary: a distribution\nLicense: none\nBuildArch: noarch\n"
            .to_owned();
    for need in needed {
        spec += &format!("Provides: {need}\n");
    }
    spec += "%description\nWhat a distribution has.\n%files\n";
    let file = root.top.join("stand-in.spec");
    std::fs::write(&file, spec)?;
    let out = format!("_rpmdir {}", root.top.join("rpms").display());
    let name = "_build_name_fmt %%{NAME}-%%{VERSION}.rpm";
    let work = format!("_topdir {}", root.top.join("top").display());
    must(&[
        "rpmbuild",
        "-bb",
        "--quiet",
        "--define",
        &out,
        "--define",
        name,
        "--define",
        &work,
        &text(&file),
    ])?;
    Ok(())
}
