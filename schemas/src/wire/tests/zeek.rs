//! Zeek's formats.

use expect_test::expect;

use super::*;

const CONN_HEADER: &str = "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n#open\t2026-06-04-12-00-00\n#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tservice\tduration\torig_bytes\tresp_bytes\tconn_state\thistory\torig_pkts\tresp_pkts\ttunnel_parents\n#types\ttime\tstring\taddr\tport\taddr\tport\tenum\tstring\tinterval\tcount\tcount\tstring\tstring\tcount\tcount\tset[string]\n";
const CONN_ROWS: &str = "1780574400.444458\tC1\t192.0.2.10\t51514\t203.0.113.7\t443\ttcp\tssl\t4.5\t900\t6100\tSF\tShADadFf\t12\t14\t(empty)\n\
1780574401.000000\tC2\t2001:db8::1\t128\tff02::1\t0\ticmp\t-\t-\t-\t-\tOTH\t-\t1\t0\t(empty)\r\n\
1780574402.5\tC3\t192.0.2.10\t5353\t224.0.0.251\t5353\tudp\tdns\t0.000002\t0\t0\tS0\tD\t1\t0\t(empty)\n\
1780574403.5\tC4\t192.0.2.10\t5353\t224.0.0.300\t5353\tudp\tdns\t0.000002\t0\t0\tS0\tD\t1\t0\t(empty)\n\
1780574403.5\tC5\t192.0.2.10\t5353\n\
#close\t2026-06-04-13-00-00\n";

#[test]
fn conn_text() {
    expect![[r#"
        0 flow tenant="" agent=None
          bytes_forward=900 bytes_reverse=6100 connection_state="SF" destination_address="203.0.113.7" destination_port=443 direction_known=true end_time="2026-06-04T12:00:04.944458Z" event_time="2026-06-04T12:00:04.944458Z" packets_forward=12 packets_reverse=14 sampled_packet=false sampling_rate=1 service="ssl" source_address="192.0.2.10" source_port=51514 start_time="2026-06-04T12:00:00.444458Z" tcp_flags=19 transport=6 uid="C1"
        1 flow tenant="" agent=None
          connection_state="OTH" destination_address="ff02::1" direction_known=true event_time="2026-06-04T12:00:01Z" packets_forward=1 packets_reverse=0 sampled_packet=false sampling_rate=1 source_address="2001:db8::1" start_time="2026-06-04T12:00:01Z" transport=58 uid="C2"
        2 flow tenant="" agent=None
          bytes_forward=0 bytes_reverse=0 connection_state="S0" destination_address="224.0.0.251" destination_port=5353 direction_known=true end_time="2026-06-04T12:00:02.500002Z" event_time="2026-06-04T12:00:02.500002Z" packets_forward=1 packets_reverse=0 sampled_packet=false sampling_rate=1 service="dns" source_address="192.0.2.10" source_port=5353 start_time="2026-06-04T12:00:02.5Z" transport=17 uid="C3"
        3 bad: id.resp_h: expected an address, got 224.0.0.300
        4 bad: #fields: expected a value for every column, got 4 of 16: 1780574403.5\tC5\t192.0.2.10\t5353
        skipped 9: zeek header line
    "#]].assert_eq(&show_fresh("zeek-conn", format!("{CONN_HEADER}{CONN_ROWS}").as_bytes()));
}

/// One line a record, a restart between header and rows, and a replayed bad row: the same rows.
#[test]
fn learned_survives_and_bad_rows_replay() {
    let whole = show_fresh("zeek", format!("{CONN_HEADER}{CONN_ROWS}").as_bytes());
    let mut first = (format("zeek").unwrap().decoder)();
    for line in CONN_HEADER.lines() {
        assert_eq!(show(&mut *first, line.as_bytes()), "skipped 1: zeek header line\n");
    }
    let learned = first.learned().unwrap();
    assert!(learned.len() < 2048);
    let mut second = (format("zeek").unwrap().decoder)();
    second.resume(&learned);
    assert_eq!(second.learned(), Some(learned));
    for (line, i) in CONN_ROWS.lines().zip(0..3) {
        let one = show(&mut *second, line.as_bytes());
        assert!(whole.contains(&one[1..]), "{i}: {one}\n{whole}");
    }
    let arena = Bump::new();
    let mut out = Decoded::default();
    second.decode(CONN_ROWS.as_bytes(), META, &arena, &mut out).unwrap();
    assert_eq!(out.bad.len(), 2);
    for bad in &out.bad {
        let again = show_fresh("zeek", &bad.bytes);
        assert!(again.contains(&format!("0 bad: {}", bad.fault)), "{again}");
    }
}

#[test]
fn no_header_no_row() {
    expect![[r#"
        0 bad: #fields is missing
        1 bad: #fields is missing
        2 bad: #fields is missing
        3 bad: #fields is missing
        4 bad: #fields is missing
        skipped 1: zeek header line
    "#]]
    .assert_eq(&show_fresh("zeek-conn", CONN_ROWS.as_bytes()));
}

#[test]
fn conn_json_forms() {
    let flat = r#"{"ts":1780574400.25,"uid":"C1","id.orig_h":"192.0.2.10","id.orig_p":51514,"id.resp_h":"203.0.113.7","id.resp_p":443,"proto":"tcp","service":"ssl","duration":4.5,"orig_bytes":900,"resp_bytes":6100,"conn_state":"SF","local_orig":true,"missed_bytes":0,"history":"ShADadFf","orig_pkts":12,"resp_pkts":14,"tunnel_parents":[],"ip_proto":6}"#;
    let expected = show_fresh("zeek-conn", flat.as_bytes());
    expect![[r#"
        0 flow tenant="" agent=None
          bytes_forward=900 bytes_reverse=6100 connection_state="SF" destination_address="203.0.113.7" destination_port=443 direction_known=true end_time="2026-06-04T12:00:04.75Z" event_time="2026-06-04T12:00:04.75Z" packets_forward=12 packets_reverse=14 sampled_packet=false sampling_rate=1 service="ssl" source_address="192.0.2.10" source_port=51514 start_time="2026-06-04T12:00:00.25Z" tcp_flags=19 transport=6 uid="C1"
    "#]].assert_eq(&expected);
    let nested = flat.replace(
        r#""id.orig_h":"192.0.2.10","id.orig_p":51514,"id.resp_h":"203.0.113.7","id.resp_p":443"#,
        r#""id":{"orig_h":"192.0.2.10","orig_p":51514,"resp_h":"203.0.113.7","resp_p":443}"#,
    );
    for text in [
        flat.replace("1780574400.25", "1780574400250"),
        flat.replace("1780574400.25", "\"2026-06-04T12:00:00.250000Z\""),
        flat.replace("id.", "id_"),
        nested,
        format!(r#"{{"sensor":"s1","conn":{flat},"env":"x"}}"#),
        format!(r#"{{"conn-2":{flat}}}"#),
        flat.replace(r#"{"ts""#, r#"{"_path":"open_conn","ts""#),
        format!("  \n\t {flat}\r\n\n"),
    ] {
        for name in ["zeek", "zeek-conn"] {
            assert_eq!(show_fresh(name, text.as_bytes()), expected, "{text}");
        }
    }
    for (text, expected) in [
        (format!(r#"{{"weird":{flat}}}"#), "skipped 1: another zeek log\n"),
        (flat.replace(r#"{"ts""#, r#"{"_path":"dns","ts""#), "skipped 1: another zeek log\n"),
        (r#"{"ts":1.0,"query":"a.b","qtype":1}"#.to_owned(), "skipped 1: another zeek log\n"),
    ] {
        assert_eq!(show_fresh("zeek-conn", text.as_bytes()), expected, "{text}");
    }
    assert_eq!(show_fresh("zeek", br#"{"ts":1.0,"name":"odd"}"#), "skipped 1: zeek line of an unknown log\n");
    assert_eq!(show_fresh("zeek", br#"{"x509":{"ts":1.0}}"#), "skipped 1: zeek log without an observation table\n");
}

#[test]
fn other_logs_of_a_topic() {
    let header = "#separator \\x09\n#path\tdns\n#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\ttrans_id\trtt\tquery\tqtype\tqtype_name\trcode\trcode_name\tanswers\n";
    let rows = "1780574400.1\tC1\t192.0.2.10\t40001\t192.0.2.53\t53\tudp\t6699\t0.012\tWWW.Example.com\t1\tA\t0\tNOERROR\tTXT 3 a\\x2cb,c.example.com,192.0.2.80\n\
1780574401.1\tC2\t192.0.2.10\t40001\t192.0.2.53\t53\tudp\t1\t-\tp\\xc3\\xa4ul\\x09.example\t28\tAAAA\t-\t-\t-\n\
1780574402.1\tC3\t192.0.2.10\t5353\t224.0.0.251\t5353\tudp\t0\t-\t\\xff\\xfe.local\t-\tHTTPS\t-\t-\t-\n\
1780574403.1\tC4\t192.0.2.10\t40001\t192.0.2.53\t53\tudp\t2\t-\t-\t-\t-\t-\t-\t-\n";
    expect![[r#"
        0 dns tenant="" agent=None
          answer_count=3 answers="TXT 3 a\\x2cb,c.example.com,192.0.2.80" client_address="192.0.2.10" event_time="2026-06-04T12:00:00.112Z" latency_s=0.012 query="www.example.com" query_type=1 response_code=0 server_address="192.0.2.53" server_port=53 synthetic=false transport=17 uid="C1"
        1 dns tenant="" agent=None
          client_address="192.0.2.10" event_time="2026-06-04T12:00:01.1Z" query="päul\t.example" query_type=28 server_address="192.0.2.53" server_port=53 synthetic=false transport=17 uid="C2"
        2 dns tenant="" agent=None
          client_address="192.0.2.10" event_time="2026-06-04T12:00:02.1Z" query="\\xff\\xfe.local" query_type=65 server_address="224.0.0.251" server_port=5353 synthetic=false transport=17 uid="C3"
        skipped 3: zeek header line
        skipped 1: zeek dns line without a query
    "#]].assert_eq(&show_fresh("zeek", format!("{header}{rows}").as_bytes()));
    let json = r#"{"dns":{"ts":1780574400.1,"uid":"Cqd1","id.orig_h":"192.0.2.10","id.orig_p":40001,"id.resp_h":"192.0.2.53","id.resp_p":53,"proto":"udp","trans_id":6699,"rtt":0.012,"query":"www.example.com","qtype":1,"qtype_name":"A","rcode":0,"rcode_name":"NOERROR","AA":false,"answers":["192.0.2.80","TXT 3 a,\"b"],"TTLs":[300.0],"rejected":false}}"#;
    expect![[r#"
        0 dns tenant="" agent=None
          answer_count=2 answers="192.0.2.80,TXT 3 a\\x2c\"b" client_address="192.0.2.10" event_time="2026-06-04T12:00:00.112Z" latency_s=0.012 query="www.example.com" query_type=1 response_code=0 server_address="192.0.2.53" server_port=53 synthetic=false transport=17 uid="Cqd1"
    "#]].assert_eq(&show_fresh("zeek", json.as_bytes()));
}

#[test]
fn ssl_and_the_mark_of_its_log() {
    let header = "#separator \\x09\n#path\tssl\n#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tversion\tcipher\tserver_name\testablished\tcert_chain_fps\tsubject\tissuer\tja3\tja4\tvalidation_status   label   detailedlabel\n";
    let fps = "AB".repeat(32);
    let row = |ts: &str, rest: &str| format!("{ts}\tC1\t192.0.2.10\t40001\t203.0.113.7\t443\t{rest}\n");
    let text = [
        header.to_owned(),
        row("1780574410.0", &format!("TLSv13\tTLS_AES_128_GCM_SHA256\tWWW.Example.com\tT\t{fps},{fps}\tCN=a\\\\, b\tCN=c\tABCDEF\tt13d\tok   Benign   x")),
        // Older, so written no earlier than the one before.
        row("1780574405.0", "SSLv3\t-\t-\tF\t(empty)\t-\t-\t-\t-\tself signed certificate   Malicious   C&C"),
        // A clock far ahead dates its own row only.
        row("1980574405.0", "TLSv12\t-\t-\tF\t(empty)\t-\t-\t-\t-\t-   -   -"),
        row("1780574411.0", "DTLSv12\t-\t-\tF\t-\t-\t-\t-\t-\t-   -   -"),
    ]
    .concat();
    expect![[r#"
        0 tls tenant="" agent=None
          certificate_issuer="CN=c" certificate_sha256="abababababababababababababababababababababababababababababababab" certificate_subject="CN=a\\, b" cipher="TLS_AES_128_GCM_SHA256" destination_address="203.0.113.7" destination_port=443 established=true event_time="2026-06-04T12:00:10Z" ja3="abcdef" ja4="t13d" server_name="www.example.com" source_address="192.0.2.10" source_port=40001 start_time="2026-06-04T12:00:10Z" uid="C1" validation="ok" version="1.3"
        1 tls tenant="" agent=None
          destination_address="203.0.113.7" destination_port=443 established=false event_time="2026-06-04T12:00:10Z" source_address="192.0.2.10" source_port=40001 start_time="2026-06-04T12:00:05Z" uid="C1" validation="self signed certificate" version="SSLv3"
        2 tls tenant="" agent=None
          destination_address="203.0.113.7" destination_port=443 established=false event_time="2032-10-05T07:33:25Z" source_address="192.0.2.10" source_port=40001 start_time="2032-10-05T07:33:25Z" uid="C1" version="1.2"
        3 tls tenant="" agent=None
          destination_address="203.0.113.7" destination_port=443 established=false event_time="2026-06-04T12:00:11Z" source_address="192.0.2.10" source_port=40001 start_time="2026-06-04T12:00:11Z" uid="C1" version="DTLSv12"
        skipped 3: zeek header line
    "#]].assert_eq(&show_fresh("zeek-ssl", text.as_bytes()));
    let json = r#"{"_path":"ssl","_write_ts":1780574402.5,"ts":1780574400.5,"id.orig_h":"192.0.2.10","id.orig_p":1,"id.resp_h":"203.0.113.7","id.resp_p":443,"established":true,"version":"TLSv12"}"#;
    let mut decoder = (format("zeek-ssl").unwrap().decoder)();
    show(&mut *decoder, text.as_bytes());
    assert!(show(&mut *decoder, json.as_bytes()).contains("event_time=\"2026-06-04T12:00:02.5Z\""));
    let mut resumed = (format("zeek-ssl").unwrap().decoder)();
    resumed.resume(&decoder.learned().unwrap());
    assert_eq!(resumed.learned(), decoder.learned());
    let old = row("1780574405.0", "-\t-\t-\tF\t-\t-\t-\t-\t-\t-   -   -");
    assert!(show(&mut *resumed, old.as_bytes()).contains("event_time=\"2026-06-04T12:00:11Z\""));
}

#[test]
fn http_and_proxies() {
    let header = "#separator \\x09\n#path\thttp\n#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tmethod\thost\turi\tuser_agent\trequest_body_len\tresponse_body_len\tstatus_code\tproxied\n";
    let row = |rest: &str| format!("1780574400.0\tC1\t192.0.2.10\t40001\t203.0.113.7\t3128\t{rest}\n");
    let text = [
        header.to_owned(),
        row("GET\tWWW.Example.com:8080\t/a?b=c://d\tcurl/8\t0\t512\t200\t-"),
        row("CONNECT\tother.example\tC2.Example.org:443\t-\t0\t0\t200\tVIA -> x"),
        row("CONNECT\t-\t[2001:db8::1]:8443\t-\t0\t0\t-\t-"),
        row("GET\t-\thttp://u:p@abs.example:81/x\t-\t0\t0\t-\t-"),
        row("GET\t2001:db8::2\t/\t-\t0\t0\t-\tVIA -> x"),
        row("-\t-\t-\t-\t-\t-\t70000\t-"),
    ]
    .concat();
    expect![[r#"
        0 http tenant="" agent=None
          destination_address="203.0.113.7" destination_port=3128 event_time="2026-06-04T12:00:00Z" host="www.example.com" host_port=8080 method="GET" request_bytes=0 response_bytes=512 source_address="192.0.2.10" source_port=40001 start_time="2026-06-04T12:00:00Z" status=200 uid="C1" user_agent="curl/8" via_proxy=false
        1 http tenant="" agent=None
          destination_address="203.0.113.7" destination_port=3128 event_time="2026-06-04T12:00:00Z" host="c2.example.org" host_port=443 method="CONNECT" request_bytes=0 response_bytes=0 source_address="192.0.2.10" source_port=40001 start_time="2026-06-04T12:00:00Z" status=200 uid="C1" via_proxy=true
        2 http tenant="" agent=None
          destination_address="203.0.113.7" destination_port=3128 event_time="2026-06-04T12:00:00Z" host="2001:db8::1" host_port=8443 method="CONNECT" request_bytes=0 response_bytes=0 source_address="192.0.2.10" source_port=40001 start_time="2026-06-04T12:00:00Z" uid="C1" via_proxy=true
        3 http tenant="" agent=None
          destination_address="203.0.113.7" destination_port=3128 event_time="2026-06-04T12:00:00Z" host="abs.example" host_port=81 method="GET" request_bytes=0 response_bytes=0 source_address="192.0.2.10" source_port=40001 start_time="2026-06-04T12:00:00Z" uid="C1" via_proxy=true
        4 http tenant="" agent=None
          destination_address="203.0.113.7" destination_port=3128 event_time="2026-06-04T12:00:00Z" host="2001:db8::2" method="GET" request_bytes=0 response_bytes=0 source_address="192.0.2.10" source_port=40001 start_time="2026-06-04T12:00:00Z" uid="C1" via_proxy=false
        5 bad: status_code: expected a whole number in range, got 70000
        skipped 3: zeek header line
    "#]].assert_eq(&show_fresh("zeek-http", text.as_bytes()));
    let long = row(&format!("GET\ta.example\t/\t{}\u{e9}{}\t0\t0\t200\t-", "x".repeat(255), "y".repeat(999)));
    let shown = show_fresh("zeek-http", format!("{header}{long}").as_bytes());
    assert!(shown.contains(&format!("user_agent=\"{}\"", "x".repeat(255))), "{shown}");
}

#[test]
fn headers_are_bounded() {
    let columns = vec!["x"; 257].join("\t");
    assert!(show_fresh("zeek", format!("#fields\t{columns}\n").as_bytes()).starts_with("rejected: columns of a zeek log"));
    assert!(show_fresh("zeek", format!("#path\t{}\n", "a".repeat(33)).as_bytes()).starts_with("rejected: a word"));
    assert!(show_fresh("zeek", b"#separator ab\n").starts_with("rejected: #separator"));
    let repeated = vec!["response_body_len"; 256].join("\t");
    let mut decoder = (format("zeek").unwrap().decoder)();
    show(&mut *decoder, format!("#fields\t{repeated}\n").as_bytes());
    assert!(decoder.learned().unwrap().len() <= 2048);
    let plain = show_fresh("zeek", b"ts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tconn_state\n22.335172\tC\tfe80::1\t1\tff02::1:3\t5355\tudp\tS0\n");
    assert!(plain.contains("event_time=\"1970-01-01T00:00:22.335172Z\""), "{plain}");
}
