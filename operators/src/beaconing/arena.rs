//! The contacts of all pairs of one host in one piece. A pair's contacts are a block of it, with room for a few more; a
//! block that is full moves to the end and leaves a hole, and holes are closed before the piece would grow over them.
//!
//! Always holds: how much room a block has, and so how many bytes are counted, follows from its length alone.

use super::pair::{CONTACTS_MAX, Contact, Pair};

/// Room of blocks: exact for the pairs that are rarely called, which are most.
const ROOMS: [u8; 13] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96];

const _: () = assert!(CONTACTS_MAX == 96);

/// Where a pair's contacts lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// First slot.
    pub at: u32,
    /// Contacts.
    pub len: u8,
}

impl Block {
    /// Contacts.
    pub fn len(self) -> usize {
        usize::from(self.len)
    }

    /// Room for so many.
    fn room(self) -> usize {
        if self.len == 0 { 0 } else { ROOMS.iter().map(|r| usize::from(*r)).find(|r| *r >= self.len()).unwrap_or(CONTACTS_MAX) }
    }
}

/// See the file's header.
#[derive(Clone, Debug, Default)]
pub(super) struct Arena {
    slots: Vec<Contact>,
    /// Slots that belong to blocks.
    taken: u32,
}

impl Arena {
    /// A block's contacts.
    pub fn of(&self, block: Block) -> &[Contact] {
        let at = block.at as usize;
        &self.slots[at..at + block.len()]
    }

    /// Asks for where a block's next contact goes.
    pub fn ahead(&self, block: Block) {
        if let Some(slot) = self.slots.get((block.at as usize + block.len()).saturating_sub(1)) {
            crate::ahead::ask(slot);
        }
    }

    /// The same, to be changed.
    pub fn of_mut(&mut self, block: Block) -> &mut [Contact] {
        let at = block.at as usize;
        &mut self.slots[at..at + block.len()]
    }

    /// Inserts a contact at `i` of a block that holds fewer than [`CONTACTS_MAX`]; where the block is now.
    #[must_use]
    pub fn insert(&mut self, mut block: Block, i: usize, contact: Contact) -> Block {
        let (room, len) = (block.room(), block.len());
        if len == room {
            self.enlarge(&mut block, room);
        }
        block.len += 1;
        let kept = self.of_mut(block);
        if i < len {
            kept.copy_within(i..len, i + 1);
        }
        kept[i] = contact;
        block
    }

    /// Gives a full block the next room: where it is when it is the last one, else at the end.
    fn enlarge(&mut self, block: &mut Block, room: usize) {
        let (at, end) = (block.at as usize, self.slots.len());
        let larger = Block { len: block.len + 1, ..*block }.room();
        self.taken += (larger - room) as u32;
        if room > 0 && at + room == end {
            crate::table::grow(&mut self.slots, larger - room);
            self.slots.resize(at + larger, Contact::default());
            return;
        }
        crate::table::grow(&mut self.slots, larger);
        self.slots.extend_from_within(at..at + block.len());
        self.slots.resize(end + larger, Contact::default());
        block.at = end as u32;
    }

    /// A block of contacts read back.
    pub fn push(&mut self, contacts: impl ExactSizeIterator<Item = Contact>) -> Block {
        // No more than a pair ever has.
        let block = Block { at: self.slots.len() as u32, len: contacts.len().min(CONTACTS_MAX) as u8 };
        self.slots.extend(contacts.take(CONTACTS_MAX));
        self.slots.resize(block.at as usize + block.room(), Contact::default());
        self.taken += block.room() as u32;
        block
    }

    /// Room for so many contacts, in blocks not yet pushed.
    pub fn reserve(&mut self, contacts: usize) {
        self.slots.reserve_exact(contacts);
    }

    /// Whether holes are worth closing before the next contact is added: a quarter of the piece, and it would have to grow.
    pub fn is_ragged(&self) -> bool {
        let holes = self.slots.len() - self.taken as usize;
        holes * 4 > self.slots.len() && self.slots.capacity() - self.slots.len() < 8
    }

    /// Closes the holes; these are all the pairs that have blocks.
    pub fn compact(&mut self, pairs: &mut [Pair]) {
        let old = std::mem::take(self);
        self.slots.reserve_exact(crate::table::served::<Contact>(old.taken as usize + old.taken as usize / 8 + 1));
        for pair in pairs {
            pair.set_contacts(self.push(old.of(pair.contacts()).iter().copied()));
        }
    }

    /// Bytes, by what the blocks have room for and a quarter of it for holes and growth.
    pub fn bytes(&self) -> usize {
        self.taken as usize * size_of::<Contact>() * 5 / 4
    }
}
