//! DNS look-ups: one row is one question with, where known, its answer.

use super::table::table;

table! {
    /// A look-up.
    "dns" version 2, DnsRow, DnsColumns, DnsBatch;
    client_address: Opt<Addr>, "-", "source; id.orig_h", "who asked";
    client_name: Opt<Dict>, "-", "workload", "workload that asked, where no address is known";
    server_address: Opt<Addr>, "-", "dns.server; id.resp_h", "who was asked";
    server_port: Opt<U16>, "-", "id.resp_p", "its port; 5353, 5355 and 137 are not unicast DNS";
    transport: U8, "IANA", "proto; dns.transport", "17 UDP, 6 TCP";
    query: Text, "-", "resource; server_address; query", "name in lower case without the trailing dot";
    query_type: U16, "IANA", "method; dns.qtype; qtype", "RR type; 0 when unknown";
    response_code: Opt<U8>, "IANA", "status; dns.rcode; rcode", "absent when no answer was seen";
    answers: Opt<Text>, "-", "dns.answer; answers", "answer data joined by commas";
    answer_count: Opt<U16>, "records", "dns.answers; answers", "number of answers";
    request_bytes: Opt<U32>, "octets", "request_bytes", "size of the question message";
    response_bytes: Opt<U32>, "octets", "response_bytes", "size of the answer message";
    latency_s: Opt<F64>, "s", "latency_nano; rtt", "question to answer";
    synthetic: Flag, "-", "format", "asked by our own probe, not by a host";
    uid: Opt<Text>, "-", "uid", "the source's connection id";
}
