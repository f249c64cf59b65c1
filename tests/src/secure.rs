//! A broker as it stands in a company: TLS, logins by SCRAM, and no right that was not given. One node, its certificate made
//! at run time; whoever watches comes in beside, without either.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use base64::Engine as _;

use crate::cluster::{Cluster, ClusterOptions};
use crate::node::tool;

/// How long a login is good for: a user that was removed is cut off within it.
const LOGIN_MS: u32 = 3000;

/// The broker.
pub struct SecureBroker {
    /// The cluster of one.
    pub cluster: Cluster,
    /// Authority that signed its certificate, PEM.
    pub ca_file: PathBuf,
}

impl SecureBroker {
    /// Starts it; certificates go to `dir`.
    pub fn start(dir: &Path) -> Result<Self> {
        let (ca_file, store) = certificates(dir)?;
        let of = "listener.name.clients";
        let extra = vec![
            format!("{of}.ssl.keystore.type=PEM"),
            format!("{of}.ssl.keystore.location={}", store.display()),
            format!("{of}.sasl.enabled.mechanisms=SCRAM-SHA-512"),
            format!("{of}.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;"),
            format!("{of}.scram-sha-512.connections.max.reauth.ms={LOGIN_MS}"),
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned(),
            "super.users=User:ANONYMOUS".to_owned(),
        ];
        let options = ClusterOptions { nodes: 1, protocol: "SASL_SSL".to_owned(), extra, ..ClusterOptions::default() };
        Ok(Self { cluster: Cluster::start(&options)?, ca_file })
    }

    /// Makes a user, or gives it another password.
    pub fn user(&self, name: &str, password: &str) -> Result<()> {
        let secret = format!("SCRAM-SHA-512=[iterations=4096,password={password}]");
        self.config(&["--alter", "--add-config", &secret, "--entity-type", "users", "--entity-name", name])
    }

    /// Removes a user's password.
    pub fn remove_user(&self, name: &str) -> Result<()> {
        self.config(&["--alter", "--delete-config", "SCRAM-SHA-512", "--entity-type", "users", "--entity-name", name])
    }

    /// Gives rights, or takes them: `--add` or `--remove`, then as `kafka-acls.sh` has it.
    pub fn acl(&self, what: &str, user: &str, args: &[&str]) -> Result<()> {
        let principal = format!("User:{user}");
        let mut all = vec!["--bootstrap-server", self.cluster.direct(), what, "--force", "--allow-principal", &principal];
        all.extend(args);
        tool("org.apache.kafka.tools.AclCommand", &all).map(drop)
    }

    fn config(&self, args: &[&str]) -> Result<()> {
        let mut all = vec!["--bootstrap-server", self.cluster.direct()];
        all.extend(args);
        tool("kafka.admin.ConfigCommand", &all).map(drop)
    }
}

/// An authority, and a key with its certificate for this machine in one file.
fn certificates(dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let ca_key = rcgen::KeyPair::generate()?;
    let mut ca = rcgen::CertificateParams::new(Vec::new())?;
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
    let ca_cert = ca.self_signed(&ca_key)?;
    let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
    let key = rcgen::KeyPair::generate()?;
    let cert = rcgen::CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
    let (ca_file, store) = (dir.join("ca.pem"), dir.join("broker.pem"));
    let authority = pem("CERTIFICATE", ca_cert.der());
    fs::write(&ca_file, &authority)?;
    fs::write(&store, pem("PRIVATE KEY", &key.serialize_der()) + &pem("CERTIFICATE", cert.der()) + &authority)?;
    Ok((ca_file, store))
}

fn pem(what: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|l| std::str::from_utf8(l).ok()).collect();
    format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", lines.join("\n"))
}
