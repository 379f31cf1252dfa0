//! What a launch did wrong.

use crate::ffi;
use std::ffi::CStr;
use std::fmt;

/// What kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// An access to global memory that no buffer holds.
    OutOfBounds,
    /// An access between the rows of a buffer.
    StrideGap,
    /// An access to an address that is no multiple of its size.
    Misaligned,
    /// A store to a buffer that is only read.
    ReadOnly,
    /// A barrier to which not all threads of the block, or of the cluster, come.
    DivergentBarrier,
    /// A shuffle to which not all lanes of the warp come.
    DivergentShuffle,
    /// The launch did not end: threads that wait for what never happens.
    NoProgress,
    /// A store between shared arrays, or more of them than a block may declare.
    SharedOverrun,
    /// A read of a peer's shared memory that there is not: outside of the arrays, of a block that the cluster does not have, or of one that
    /// has ended.
    PeerAccess,
    /// Bytes around a buffer's rows that changed, found after the launch: a store past the accessors.
    Canary,
}

const KINDS: [FaultKind; 9] = [
    FaultKind::OutOfBounds,
    FaultKind::StrideGap,
    FaultKind::Misaligned,
    FaultKind::ReadOnly,
    FaultKind::DivergentBarrier,
    FaultKind::DivergentShuffle,
    FaultKind::NoProgress,
    FaultKind::SharedOverrun,
    FaultKind::PeerAccess,
];

/// One fault. Accesses that are faults were not executed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// The source file, `kernels/...`; empty where the fault belongs to no line.
    pub file: String,
    /// The line in it.
    pub line: u32,
    /// The block that was running.
    pub block: u32,
    /// The thread in it.
    pub thread: u32,
    /// What happened.
    pub message: String,
}

/// The faults of a launch, the first sixteen at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// Whether one is of this kind.
    pub fn any(&self, kind: FaultKind) -> bool {
        self.0.iter().any(|fault| fault.kind == kind)
    }
}

impl Fault {
    pub(crate) fn canary(message: String) -> Self {
        Self { kind: FaultKind::Canary, file: String::new(), line: 0, block: 0, thread: 0, message }
    }

    /// # Safety
    /// `fault` is one that the runtime filled in.
    pub(crate) unsafe fn from_runtime(fault: &ffi::Fault) -> Self {
        // SAFETY: by the contract both are strings that end in 0: `file` a literal of the kernel's, `text` by vsnprintf.
        let [file, message] = [fault.file, fault.text.as_ptr()]
            .map(|text| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned());
        let kind = KINDS[fault.kind as usize];
        Self { kind, file, line: fault.line, block: fault.block, thread: fault.thread, message }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, file, line, block, thread, message } = self;
        write!(f, "{file}:{line}: {kind:?}, block {block}, thread {thread}: {message}")
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|fault| writeln!(f, "{fault}"))
    }
}

impl std::error::Error for Faults {}
