//! HTTP requests: chiefly the name asked for. Behind a forward proxy only the CONNECT host names the peer.

use super::table::table;

table! {
    /// A request.
    "http" version 2, HttpRow, HttpColumns, HttpBatch;
    start_time: Opt<Time>, "ns", "ts", "time of the request";
    source_address: Opt<Addr>, "-", "id.orig_h", "client";
    source_port: Opt<U16>, "-", "id.orig_p", "its port";
    destination_address: Opt<Addr>, "-", "id.resp_h", "server, or the proxy";
    destination_port: Opt<U16>, "-", "id.resp_p", "its port";
    method: Opt<Dict>, "-", "method", "GET, CONNECT, ...";
    host: Opt<Text>, "-", "host; uri of CONNECT", "name asked for, lower case, without port";
    host_port: Opt<U16>, "-", "uri of CONNECT; host", "port of that name";
    via_proxy: Flag, "-", "method, proxied, absolute uri", "the destination is a proxy";
    status: Opt<U16>, "HTTP", "status_code", "answer";
    user_agent: Opt<Text>, "-", "user_agent", "as sent, at most 256 bytes";
    request_bytes: Opt<U64>, "octets", "request_body_len", "body sent";
    response_bytes: Opt<U64>, "octets", "response_body_len", "body received";
    uid: Opt<Text>, "-", "uid", "the source's connection id";
}
