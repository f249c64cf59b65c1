//! A snapshot object's bytes: stamp, length of the head, head, digest of all that; then the state groups that this object
//! holds, one after the other. The head names every group of the snapshot, the object that holds it, where in it, and its
//! digest, so that a restart reads what it needs of each object and nothing else.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::stamp::{LAYOUT, Stamp};
use super::{Index, Part, Place, Taken};
use crate::task::State;

/// Bytes of a group's digest: enough to see damage.
pub(super) const DIGEST_BYTES: usize = 16;

/// What is wrong with an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Written by a binary of another layout.
    Foreign(Stamp),
    /// Not what was written.
    Damaged(String),
    /// The head goes on beyond the bytes at hand; so many are needed.
    Short(u64),
}

/// Everything but the groups' bytes.
#[derive(Debug)]
pub(super) struct Head {
    pub stamp: Stamp,
    pub taken: Taken,
    pub task: Vec<u8>,
    pub index: Index,
}

#[derive(Serialize, Deserialize)]
struct Written {
    taken: Taken,
    task: Vec<u8>,
    operators: Vec<String>,
    /// Objects by name; the first is this one.
    objects: Vec<String>,
    groups: Vec<Group>,
}

#[derive(Serialize, Deserialize)]
struct Group {
    operator: u16,
    group: u16,
    object: u16,
    /// From the end of the head for this object, from the beginning for others.
    at: u64,
    len: u64,
    digest: [u8; DIGEST_BYTES],
}

/// Digest of a group.
pub(super) fn digest(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    *blake3::hash(bytes).as_bytes().first_chunk().expect("a BLAKE3 digest has 32 bytes")
}

/// An object's pieces in their order, and the index of the snapshot.
pub(super) fn encode(stamp: &Stamp, id: &str, taken: &Taken, state: State, before: &Index) -> (Vec<Bytes>, Index) {
    let mut objects = vec![id.to_owned()];
    let mut operators: Vec<String> = Vec::new();
    let mut groups = Vec::new();
    let mut operator = |name: &str| match operators.iter().position(|o| o == name) {
        Some(at) => at as u16,
        None => {
            operators.push(name.to_owned());
            (operators.len() - 1) as u16
        }
    };
    let mut index = Index::new();
    if !state.full {
        for (part, place) in before.iter().filter(|(part, _)| !state.parts.contains_key(*part)) {
            let object = objects.iter().position(|o| *o == *place.object).unwrap_or_else(|| {
                objects.push(place.object.to_string());
                objects.len() - 1
            });
            let (group, object) = (part.1, object as u16);
            groups.push(Group { operator: operator(&part.0), group, object, at: place.at, len: place.len, digest: place.digest });
            index.insert(part.clone(), place.clone());
        }
    }
    let own: std::sync::Arc<str> = id.into();
    let mut end = 0;
    let mut pieces = vec![Bytes::new()];
    for (part, bytes) in state.parts {
        let place = Place { object: own.clone(), at: end, len: bytes.len() as u64, digest: digest(&bytes) };
        end += place.len;
        groups.push(Group {
            operator: operator(&part.0),
            group: part.1,
            object: 0,
            at: place.at,
            len: place.len,
            digest: place.digest,
        });
        index.insert(part, place);
        pieces.push(bytes);
    }
    let written = Written { taken: taken.clone(), task: state.head, operators, objects, groups };
    let head = wrap(stamp, &postcard::to_stdvec(&written).expect("plain data, memory does not fail"));
    let begin = head.len() as u64;
    index.values_mut().filter(|p| *p.object == *own).for_each(|p| p.at += begin);
    pieces[0] = head.into();
    (pieces, index)
}

fn wrap(stamp: &Stamp, head: &[u8]) -> Vec<u8> {
    let mut bytes = stamp.bytes();
    bytes.extend((head.len() as u64).to_le_bytes());
    bytes.extend(head);
    let digest = blake3::hash(&bytes);
    bytes.extend_from_slice(digest.as_bytes());
    bytes
}

/// Reads the head of an object called `id` from its first bytes.
pub(super) fn decode(id: &str, bytes: &[u8]) -> Result<Head, Fault> {
    let damaged = |reason: &str| Fault::Damaged(reason.to_owned());
    let (stamp, rest) = Stamp::parse(bytes).ok_or_else(|| damaged("it does not begin like a snapshot"))?;
    if stamp.layout != LAYOUT {
        return Err(Fault::Foreign(stamp));
    }
    let (len, rest) = rest.split_first_chunk().ok_or_else(|| damaged("too short"))?;
    let len = u64::from_le_bytes(*len);
    let before = (bytes.len() - rest.len()) as u64;
    let needed = before.checked_add(len).and_then(|n| n.checked_add(32)).ok_or_else(|| damaged("lengths make no sense"))?;
    if needed > bytes.len() as u64 {
        return Err(Fault::Short(needed));
    }
    // No larger than what is in memory.
    let (head, rest) = rest.split_at(len as usize);
    let covered = &bytes[..before as usize + head.len()];
    if !rest.starts_with(blake3::hash(covered).as_bytes()) {
        return Err(damaged("the head's digest differs"));
    }
    let written: Written = postcard::from_bytes(head).map_err(|e| Fault::Damaged(e.to_string()))?;
    let objects: Vec<std::sync::Arc<str>> = written.objects.iter().map(|o| o.as_str().into()).collect();
    let own: std::sync::Arc<str> = id.into();
    let mut index: BTreeMap<Part, Place> = BTreeMap::new();
    for group in written.groups {
        let operator = written.operators.get(usize::from(group.operator));
        let named = objects.get(usize::from(group.object));
        let (Some(operator), Some(named)) = (operator, named) else {
            return Err(damaged("the head names what it does not list"));
        };
        // An object is what it is called in the store, whatever it calls itself.
        let (object, begin) = if group.object == 0 { (own.clone(), needed) } else { (named.clone(), 0) };
        let at = group.at.checked_add(begin).filter(|at| at.checked_add(group.len).is_some());
        let at = at.ok_or_else(|| damaged("lengths make no sense"))?;
        index.insert((operator.clone(), group.group), Place { object, at, len: group.len, digest: group.digest });
    }
    Ok(Head { stamp, taken: written.taken, task: written.task, index })
}

/// Body of a fuzz target: bytes as an object, and as a head under a digest of their own.
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = decode("id", bytes);
    let whole = wrap(&Stamp::own(1), bytes);
    if let Ok(head) = decode("id", &whole) {
        for place in head.index.values() {
            assert!(place.at.checked_add(place.len).is_some(), "an end can be computed");
        }
    }
}

/// Good objects for [`fuzz()`].
pub(crate) fn fuzz_seeds(_: &str) -> Vec<Vec<u8>> {
    let part = |group| ("a-rule".to_owned(), group);
    let taken = Taken { position: 20, replay_offset: 10, hash: [7; 32] };
    let state = |full: bool| State {
        head: vec![1, 2, 3],
        parts: [(part(2), Bytes::from(vec![9; 40]))].into(),
        full,
        replay_offset: None,
    };
    let before = [(part(1), Place { object: "a".into(), at: 100, len: 7, digest: [3; DIGEST_BYTES] })].into();
    let (pieces, _) = encode(&Stamp::own(1), "b", &taken, state(false), &before);
    let head = postcard::to_stdvec(&Written {
        taken,
        task: vec![1],
        operators: vec!["a-rule".to_owned()],
        objects: vec!["b".to_owned()],
        groups: vec![Group { operator: 0, group: 1, object: 0, at: 0, len: 40, digest: [1; DIGEST_BYTES] }],
    });
    vec![pieces.concat(), head.expect("plain data, memory does not fail")]
}
