//! Who wrote a snapshot, in a form that every binary can read for ever: layout, output version, program version. A binary
//! that cannot read the rest can still say why.

/// Layout of a snapshot object and of every state in it. Raise it when an operator's state, a task's head or the object
/// itself changes its form; snapshots of another layout are then left aside, and state comes back by re-processing.
pub const LAYOUT: u32 = 8;

/// Version of what tasks write for given records. Raise it whenever the same rows, rules and state can give other findings
/// or signals than before: a task then goes over to it only at a snapshot that lies at its committed offset, because
/// re-processing could not reproduce what the older binary committed.
pub const OUTPUT_VERSION: u32 = 10;

/// First bytes of every object.
const MAGIC: [u8; 8] = *b"tidesnap";

/// Who wrote an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Layout.
    pub layout: u32,
    /// Output version.
    pub outputs: u32,
    /// Version of the program, at most 255 bytes.
    pub program: String,
}

impl Stamp {
    /// Of this binary, for tasks of an output version.
    pub fn own(outputs: u32) -> Self {
        Self { layout: LAYOUT, outputs, program: env!("CARGO_PKG_VERSION").to_owned() }
    }

    /// As it stands at an object's beginning.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.layout.to_le_bytes());
        bytes.extend(self.outputs.to_le_bytes());
        let program = &self.program.as_bytes()[..self.program.len().min(255)];
        bytes.push(program.len() as u8);
        bytes.extend(program);
        bytes
    }

    /// Reads one from an object's beginning; the rest follows. `None` = this is no snapshot.
    pub(super) fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let (layout, rest) = rest.split_first_chunk()?;
        let (outputs, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first()?;
        let (program, rest) = rest.split_at_checked(usize::from(*len))?;
        let stamp = Self {
            layout: u32::from_le_bytes(*layout),
            outputs: u32::from_le_bytes(*outputs),
            program: String::from_utf8_lossy(program).into_owned(),
        };
        Some((stamp, rest))
    }
}
