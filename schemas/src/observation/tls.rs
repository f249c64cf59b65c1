//! TLS handshakes seen on the wire: the name asked for, fingerprints, the certificate shown.

use super::table::table;

table! {
    /// A handshake.
    "tls" version 2, TlsRow, TlsColumns, TlsBatch;
    start_time: Opt<Time>, "ns", "ts", "time of the handshake";
    source_address: Opt<Addr>, "-", "id.orig_h", "client";
    source_port: Opt<U16>, "-", "id.orig_p", "its port";
    destination_address: Opt<Addr>, "-", "id.resp_h", "server";
    destination_port: Opt<U16>, "-", "id.resp_p", "its port";
    server_name: Opt<Text>, "-", "server_name", "SNI in lower case without the trailing dot";
    version: Opt<Dict>, "-", "version", "as 1.0 .. 1.3";
    cipher: Opt<Dict>, "-", "cipher", "IANA suite name";
    established: Opt<Flag>, "-", "established", "the handshake completed";
    ja3: Opt<Text>, "-", "ja3", "client fingerprint, lower hex";
    ja4: Opt<Text>, "-", "ja4", "client fingerprint";
    certificate_sha256: Opt<Text>, "-", "cert_chain_fps[0]", "leaf, lower hex";
    certificate_subject: Opt<Text>, "-", "subject", "leaf";
    certificate_issuer: Opt<Text>, "-", "issuer", "leaf";
    validation: Opt<Dict>, "-", "validation_status", "the sensor's own verdict";
    uid: Opt<Text>, "-", "uid", "the source's connection id";
}
