//! What clients see of a Kafka, rule by rule.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;

const S: i64 = 1_000_000_000;

/// A cluster with two topics, and a moment.
struct World {
    broker: Broker,
    now: i64,
}

fn at(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

fn record(value: &str) -> Append {
    Append {
        topic: String::new(),
        partition: 0,
        timestamp: None,
        key: None,
        value: Some(value.to_owned().into()),
        headers: Vec::new(),
    }
}

fn offset(offset: i64) -> Committed {
    Committed { offset, metadata: String::new() }
}

impl World {
    fn new() -> Self {
        let mut broker = Broker::new(Settings::default(), 0);
        for (name, partitions) in [("in", 4), ("out", 2)] {
            broker.handle(0, Request::CreateTopic(TopicSpec::new(name, partitions)));
        }
        Self { broker, now: 0 }
    }

    fn ask(&mut self, request: Request) -> Response {
        self.now += 1;
        self.broker.handle(self.now, request).expect("somebody answers")
    }

    fn refused(&mut self, request: Request) -> Refusal {
        match self.ask(request) {
            Response::Refused(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    fn pass(&mut self, ns: i64) {
        self.now += ns;
        self.broker.advance(self.now);
    }

    /// A producer, asked for until it is there.
    fn init(&mut self, id: &str) -> Producer {
        loop {
            let request = Request::InitProducer { id: id.to_owned(), timeout_ns: 10 * S };
            match self.ask(request) {
                Response::Producer { pid, epoch } => return Producer { id: id.to_owned(), pid, epoch },
                Response::Refused(Refusal::ConcurrentTransactions) => self.pass(20_000_000),
                other => panic!("{other:?}"),
            }
        }
    }

    fn add(&mut self, producer: &Producer) -> Response {
        self.ask(Request::AddPartitions { producer: producer.clone(), at: vec![at("out", 0)] })
    }

    fn produce(&mut self, producer: &Producer, sequence: i64, value: &str) -> Response {
        let (producer, records) = (producer.clone(), vec![record(value)]);
        self.ask(Request::Produce { producer, at: at("out", 0), sequence, records })
    }

    fn end(&mut self, producer: &Producer, commit: bool) -> Response {
        self.ask(Request::EndTxn { producer: producer.clone(), commit })
    }

    /// Values visible in `out/0`, and its last stable offset.
    fn visible(&mut self) -> (Vec<String>, i64) {
        let records = self.broker.records(&at("out", 0));
        let values = records.iter().map(|r| String::from_utf8(r.value.clone().unwrap().to_vec()).unwrap()).collect();
        let Response::Range(range) = self.ask(Request::Offsets(at("out", 0))) else { panic!() };
        (values, range.end)
    }

    fn join(&mut self, instance: &str) -> Seat {
        let (group, instance, topics) = ("g".to_owned(), instance.to_owned(), vec!["in".to_owned()]);
        match self.ask(Request::Join { group, instance, topics }) {
            Response::Seat(seat) => seat,
            other => panic!("{other:?}"),
        }
    }

    fn touch(&mut self, seat: &Seat) -> Result<Seat, Refusal> {
        self.broker.touch(self.now, "g", seat).unwrap()
    }

    fn serve(&mut self, seat: &Seat, owned: &BTreeSet<TopicPartition>) -> BTreeSet<TopicPartition> {
        let request = Request::Serve { group: "g".to_owned(), seat: seat.clone(), owned: owned.clone() };
        match self.ask(request) {
            Response::Assigned(assigned) => assigned,
            other => panic!("{other:?}"),
        }
    }

    fn offsets(&mut self, producer: &Producer, seat: &Seat, to: i64) -> Response {
        let (producer, seat, offsets) = (producer.clone(), Some(seat.clone()), vec![(at("in", 0), offset(to))]);
        self.ask(Request::TxnOffsets { producer, group: "g".to_owned(), seat, offsets })
    }

    fn committed(&mut self) -> Response {
        self.ask(Request::FetchOffsets { group: "g".to_owned(), at: vec![at("in", 0)] })
    }
}

#[test]
fn a_commit_is_answered_before_it_is_visible_and_its_marker_takes_an_offset() {
    let mut w = World::new();
    let p = w.init("a");
    w.add(&p);
    assert_eq!(w.produce(&p, 0, "x"), Response::Offset(0));
    assert_eq!(w.visible(), (vec![], 0), "open");
    assert_eq!(w.end(&p, true), Response::Done);
    assert_eq!(w.visible(), (vec![], 0), "prepared");
    assert_eq!(w.refused(Request::EndTxn { producer: p.clone(), commit: true }), Refusal::ConcurrentTransactions);
    w.pass(S);
    assert_eq!(w.visible(), (vec!["x".to_owned()], 2));
    assert_eq!(w.end(&p, true), Response::Done, "asked again, answered again");
    assert_eq!(w.refused(Request::EndTxn { producer: p, commit: false }), Refusal::InvalidTxnState);
}

#[test]
fn aborted_records_are_passed_over() {
    let mut w = World::new();
    let p = w.init("a");
    w.add(&p);
    w.produce(&p, 0, "gone");
    w.end(&p, false);
    w.pass(S);
    w.add(&p);
    w.produce(&p, 1, "x");
    w.end(&p, true);
    w.pass(S);
    assert_eq!(w.visible(), (vec!["x".to_owned()], 4));
    let limit = PollLimit::default();
    let Response::Batch(batch) = w.ask(Request::Fetch { at: at("out", 0), from: 0, limit }) else { panic!() };
    assert_eq!((batch.records[0].offset, batch.next), (2, 4));
}

#[test]
fn an_init_aborts_what_is_open_and_shuts_out_the_former_epoch() {
    let mut w = World::new();
    let old = w.init("a");
    w.add(&old);
    w.produce(&old, 0, "half");
    let new = w.init("a");
    assert_eq!((new.pid, new.epoch > old.epoch), (old.pid, true));
    assert_eq!(w.visible(), (vec![], 2));
    assert_eq!(w.end(&old, true), Response::Refused(Refusal::ProducerFenced));
    assert_eq!(w.produce(&old, 1, "late"), Response::Refused(Refusal::ProducerFenced));
    assert_eq!(w.add(&old), Response::Refused(Refusal::ProducerFenced));
    w.add(&new);
    assert_eq!(w.produce(&new, 0, "x"), Response::Offset(2));
}

#[test]
fn an_init_completes_what_is_prepared() {
    let mut w = World::new();
    let old = w.init("a");
    w.add(&old);
    w.produce(&old, 0, "x");
    w.end(&old, true);
    w.init("a");
    assert_eq!(w.visible(), (vec!["x".to_owned()], 2));
}

#[test]
fn a_late_end_ends_the_next_transaction_of_its_epoch_and_no_other() {
    for reopened in [false, true] {
        let mut w = World::new();
        let p = w.init("a");
        w.add(&p);
        w.produce(&p, 0, "one");
        let late = w.broker.later(w.now + 10 * S, Request::EndTxn { producer: p.clone(), commit: true });
        w.end(&p, true);
        w.pass(S);
        let (next, sequence) = if reopened { (w.init("a"), 0) } else { (p, 1) };
        w.add(&next);
        w.produce(&next, sequence, "two");
        w.pass(8 * S);
        assert_eq!(w.visible().0, ["one"]);
        w.pass(2 * S);
        let answer = w.broker.answer(late).unwrap();
        let visible = w.visible().0;
        if reopened {
            assert_eq!(answer, Response::Refused(Refusal::ProducerFenced));
            assert_eq!(visible, ["one"]);
        } else {
            assert_eq!(answer, Response::Done);
            assert_eq!(visible, ["one", "two"], "the hole of protocol v1");
        }
    }
}

#[test]
fn a_transaction_that_runs_out_of_time_is_aborted_at_a_scan_and_its_producer_fenced() {
    let mut w = World::new();
    let p = w.init("a");
    w.pass(3 * S);
    w.add(&p);
    w.produce(&p, 0, "x");
    w.pass(15 * S);
    assert_eq!(w.visible().1, 0, "13 s is past, the scan comes at 20 s");
    w.pass(3 * S);
    assert_eq!(w.visible(), (vec![], 2));
    assert_eq!(w.end(&p, true), Response::Refused(Refusal::ProducerFenced));
}

#[test]
fn a_repeated_batch_is_stored_once_and_a_gap_is_refused() {
    let mut w = World::new();
    let p = w.init("a");
    assert_eq!(w.produce(&p, 0, "x"), Response::Refused(Refusal::InvalidTxnState), "not in a transaction");
    w.add(&p);
    assert_eq!(w.produce(&p, 0, "x"), Response::Offset(0));
    assert_eq!(w.produce(&p, 0, "x"), Response::Offset(0));
    assert_eq!(w.produce(&p, 2, "z"), Response::Refused(Refusal::OutOfOrderSequence));
    w.end(&p, true);
    w.pass(S);
    assert_eq!(w.visible().0, ["x"]);
}

#[test]
fn pending_offsets_are_unstable_until_the_marker() {
    for commit in [true, false] {
        let mut w = World::new();
        let (p, seat) = (w.init("a"), w.join("m"));
        assert_eq!(w.committed(), Response::Committed(vec![None]));
        w.ask(Request::AddGroup { producer: p.clone(), group: "g".to_owned() });
        assert_eq!(w.offsets(&p, &seat, 5), Response::Done);
        assert_eq!(w.committed(), Response::Refused(Refusal::UnstableOffsetCommit));
        w.end(&p, commit);
        assert_eq!(w.committed(), Response::Refused(Refusal::UnstableOffsetCommit));
        w.pass(S);
        assert_eq!(w.committed(), Response::Committed(vec![commit.then(|| offset(5))]));
        assert_eq!(w.broker.moved().len(), usize::from(commit));
    }
}

#[test]
fn offsets_are_taken_from_the_members_of_the_generation_only() {
    let mut w = World::new();
    let (p, m) = (w.init("a"), w.join("m"));
    w.ask(Request::AddGroup { producer: p.clone(), group: "g".to_owned() });
    // Somebody joins: the old generation counts until everybody has joined.
    let n = w.join("n");
    assert_eq!(w.offsets(&p, &m, 1), Response::Done);
    let now = w.touch(&m).unwrap();
    assert_eq!(now.generation, n.generation + 1);
    assert_eq!(w.offsets(&p, &m, 1), Response::Refused(Refusal::IllegalGeneration));
    assert_eq!(w.offsets(&p, &now, 1), Response::Done);
    // Its static successor replaces it.
    let successor = w.join("m");
    assert_eq!(w.offsets(&p, &now, 1), Response::Refused(Refusal::FencedInstance));
    assert_eq!(successor.generation, now.generation, "nothing moves");
    // Unheard of for too long.
    w.pass(31 * S);
    assert_eq!(w.offsets(&p, &successor, 1), Response::Refused(Refusal::UnknownMember));
}

#[test]
fn a_partition_moves_only_after_its_holder_gave_it_up() {
    let mut w = World::new();
    let none = BTreeSet::new();
    let m = w.join("m");
    let all = w.serve(&m, &none);
    assert_eq!(all.len(), 4);
    let n = w.join("n");
    w.touch(&m).unwrap();
    assert_eq!(w.serve(&n, &none), none, "nothing is free yet");
    let kept = w.serve(&m, &all);
    assert_eq!(kept.len(), 2);
    assert_eq!(w.serve(&n, &none), none, "not given up yet");
    w.serve(&m, &kept);
    w.touch(&n).unwrap();
    let got = w.serve(&n, &none);
    assert_eq!(got, all.difference(&kept).cloned().collect());
    // One dies: the other gets all, after the session.
    for _ in 0..31 {
        w.pass(S);
        w.touch(&n).unwrap();
    }
    assert_eq!(w.touch(&m).unwrap_err(), Refusal::UnknownMember);
    assert_eq!(w.serve(&n, &got), all);
}

#[test]
fn a_static_member_that_returns_finds_its_partitions() {
    let mut w = World::new();
    let none = BTreeSet::new();
    let m = w.join("m");
    let all = w.serve(&m, &none);
    let again = w.join("m");
    assert_eq!(again.generation, m.generation);
    assert_eq!(w.serve(&again, &none), all);
    assert_eq!(w.touch(&m).unwrap_err(), Refusal::FencedInstance);
}

#[test]
fn what_is_away_does_not_answer_and_keeps_what_it_decided() {
    let mut w = World::new();
    let (p, m) = (w.init("a"), w.join("m"));
    w.add(&p);
    w.produce(&p, 0, "x");
    w.end(&p, true);
    for part in Part::ALL {
        w.broker.set_away(part, true);
    }
    assert_eq!(w.broker.handle(w.now, Request::Metadata), None);
    let lost = w.broker.later(w.now + S, Request::Metadata);
    w.pass(60 * S);
    assert_eq!(w.broker.answer(lost), None);
    for part in Part::ALL {
        w.broker.set_away(part, false);
    }
    w.pass(1);
    assert!(w.touch(&m).is_ok(), "a coordinator that comes back begins its sessions anew");
    w.pass(S);
    assert_eq!(w.visible().0, ["x"]);
}
