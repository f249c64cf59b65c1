//! Contact rows on the findings topic: postcard, columns of equal length, bounded in number and bytes so that one record
//! always fits its topic. Equal rows give equal bytes.

use super::Contacts;
use crate::time::EventTime;

/// Rows in one record, at most.
pub const CONTACTS_MAX: usize = 8192;

/// Bytes of one record, at most: half of a topic's 1 MiB.
pub const CONTACTS_BYTES_MAX: usize = 512 << 10;

/// Bytes of one row beyond its texts: three lengths and a time as variable-length numbers, at most.
const ROW_BYTES_MAX: usize = 3 * 5 + 10;

/// What can be wrong with a record of contacts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContactsError {
    /// More than [`CONTACTS_MAX`] rows or [`CONTACTS_BYTES_MAX`] bytes.
    #[error("contacts record of {bytes} bytes and {rows} rows exceeds {CONTACTS_BYTES_MAX} bytes or {CONTACTS_MAX} rows")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// Its rows; 0 where the bytes alone were too many.
        rows: usize,
    },
    /// Not the columns it should be.
    #[error("not a contacts record: {reason}")]
    Format {
        /// What is wrong.
        reason: String,
    },
}

impl Contacts {
    /// Rows as (tenant, host, destination, at).
    pub fn rows(&self) -> impl Iterator<Item = (&str, &str, &str, EventTime)> {
        let names = self.tenant.iter().zip(self.host.iter()).zip(self.destination.iter());
        names.zip(&self.at).map(|(((tenant, host), destination), at)| (tenant, host, destination, *at))
    }

    /// The rows in records that each keep to the limits, in order. A single row that passes them alone is an error.
    pub fn encode_records(&self) -> Result<Vec<Vec<u8>>, ContactsError> {
        if !self.is_empty() && self.len() <= CONTACTS_MAX && self.bytes_at_most() <= CONTACTS_BYTES_MAX {
            return Ok(vec![self.encode()?]);
        }
        let mut records = Vec::new();
        let mut part = Self::default();
        let mut bytes = 0;
        for (tenant, host, destination, at) in self.rows() {
            let row_bytes = tenant.len() + host.len() + destination.len() + ROW_BYTES_MAX;
            // 32: the four column lengths.
            if !part.is_empty() && (part.len() == CONTACTS_MAX || bytes + row_bytes > CONTACTS_BYTES_MAX - 32) {
                records.push(std::mem::take(&mut part).encode()?);
                bytes = 0;
            }
            part.push_texts(tenant, host, destination, at);
            bytes += row_bytes;
        }
        if !part.is_empty() {
            records.push(part.encode()?);
        }
        Ok(records)
    }

    /// Bytes of one record of all rows, at most; 32: the four column lengths.
    fn bytes_at_most(&self) -> usize {
        self.tenant.bytes() + self.host.bytes() + self.destination.bytes() + self.len() * ROW_BYTES_MAX + 32
    }

    /// One record. [`Contacts::encode_records`] splits what does not fit one.
    pub fn encode(&self) -> Result<Vec<u8>, ContactsError> {
        self.check_lengths()?;
        let bytes = postcard::to_extend(self, Vec::with_capacity(self.bytes_at_most()))
            .map_err(|e| ContactsError::Format { reason: e.to_string() })?;
        if bytes.len() > CONTACTS_BYTES_MAX {
            return Err(ContactsError::TooLarge { bytes: bytes.len(), rows: self.len() });
        }
        Ok(bytes)
    }

    /// Reads a record. Hostile bytes give an error; memory is bounded by the record's own bytes and limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, ContactsError> {
        if bytes.len() > CONTACTS_BYTES_MAX {
            return Err(ContactsError::TooLarge { bytes: bytes.len(), rows: 0 });
        }
        let (contacts, rest): (Self, _) =
            postcard::take_from_bytes(bytes).map_err(|e| ContactsError::Format { reason: e.to_string() })?;
        if !rest.is_empty() {
            return Err(ContactsError::Format { reason: format!("{} bytes follow", rest.len()) });
        }
        contacts.check_lengths()?;
        Ok(contacts)
    }

    fn check_lengths(&self) -> Result<(), ContactsError> {
        let lengths = [self.tenant.len(), self.host.len(), self.destination.len(), self.at.len()];
        if lengths.iter().any(|len| *len != lengths[0]) {
            return Err(ContactsError::Format { reason: format!("columns of {lengths:?} rows") });
        }
        if lengths[0] > CONTACTS_MAX {
            return Err(ContactsError::TooLarge { bytes: 0, rows: lengths[0] });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use expect_test::expect;

    use super::*;

    fn sample(rows: usize, text: &str) -> Contacts {
        let mut contacts = Contacts::default();
        for i in 0..rows {
            contacts.push("acme", &format!("h{i}"), text, EventTime(i as i64 * 1_000_000_007));
        }
        contacts
    }

    #[test]
    fn form_is_pinned_and_reads_back() {
        let contacts = sample(2, "cdn.example");
        let bytes = contacts.encode().unwrap();
        assert_eq!(Contacts::decode(&bytes).unwrap(), contacts);
        expect!["020461636d650461636d6502026830026831020b63646e2e6578616d706c650b63646e2e6578616d706c6502008ea8d6b907"]
            .assert_eq(&hex::encode(&bytes));
        for len in 0..bytes.len() {
            assert!(Contacts::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
        assert!(Contacts::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn many_rows_become_several_records_in_order() {
        for contacts in [sample(CONTACTS_MAX * 2 + 1, "d"), sample(5000, &"x".repeat(250))] {
            let records = contacts.encode_records().unwrap();
            assert!(records.len() > 2);
            let mut joined = Contacts::default();
            for record in records {
                assert!(record.len() <= CONTACTS_BYTES_MAX);
                for (tenant, host, destination, at) in Contacts::decode(&record).unwrap().rows() {
                    joined.push(tenant, &host, destination, at);
                }
            }
            assert_eq!(joined, contacts);
        }
        assert_eq!(Contacts::default().encode_records().unwrap(), Vec::<Vec<u8>>::new());
        assert!(sample(1, &"x".repeat(CONTACTS_BYTES_MAX)).encode_records().is_err());
    }

    #[test]
    fn flipped_bytes_never_panic() {
        let good = sample(20, "cdn.example").encode().unwrap();
        for at in 0..good.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                let _ = Contacts::decode(&bytes);
            }
        }
    }

    #[test]
    fn unequal_columns_and_too_many_rows_are_refused() {
        let mut contacts = sample(2, "d");
        contacts.at.pop();
        assert!(matches!(contacts.encode(), Err(ContactsError::Format { .. })));
        assert!(matches!(Contacts::decode(&postcard::to_stdvec(&contacts).unwrap()), Err(ContactsError::Format { .. })));
        let contacts = sample(CONTACTS_MAX + 1, "d");
        assert!(matches!(Contacts::decode(&postcard::to_stdvec(&contacts).unwrap()), Err(ContactsError::TooLarge { .. })));
        // A huge length that nothing backs.
        assert!(Contacts::decode(&[0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    }
}
