//! Launches as files, which `cpp/driver.cpp` replays under the sanitizers.

use crate::emulator::Options;
use crate::memory::{Allocation, Memory};
use logit_perturb::kernel::Geometry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;

/// A launch before it has happened: everything but what it leaves in memory. All numbers are 64 bits wide, little-endian.
pub(crate) struct Record {
    name: String,
    head: Vec<u8>,
    before: Vec<Vec<u8>>,
}

fn put(to: &mut Vec<u8>, numbers: impl IntoIterator<Item = u64>) {
    numbers.into_iter().for_each(|number| to.extend(number.to_le_bytes()));
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    put(to, [bytes.len() as u64]);
    to.extend(bytes);
}

/// Where in the arguments addresses lie, and which buffers they lead to: offset, buffer, offset in the buffer. Mapped memory lies so high
/// that no other number of the arguments is taken for an address.
fn pointers(args: &[u8], allocations: &[Allocation]) -> Vec<[u64; 3]> {
    let words = args.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).enumerate();
    let pointers = words.filter_map(|(index, word)| {
        let (buffer, offset) = allocations.iter().enumerate().find_map(|(i, a)| Some((i, a.offset_of(word)?)))?;
        Some([8 * index as u64, buffer as u64, offset])
    });
    pointers.collect()
}

impl Record {
    pub(crate) fn new(name: &str, geometry: Geometry, args: &[u8], options: &Options, memory: &Memory) -> Self {
        let mut head = b"LAUNCH02".to_vec();
        put_bytes(&mut head, name.as_bytes());
        put(&mut head, [geometry.grid, geometry.cluster, geometry.threads, geometry.shared].map(u64::from));
        let Options { seed, exp_seed, most_steps, exp_ulps, resident_blocks, store_buffer, .. } = options;
        put(&mut head, [*seed, *exp_seed, *most_steps]);
        put(&mut head, [u64::from(*exp_ulps), u64::from(*resident_blocks), u64::from(*store_buffer)]);
        put_bytes(&mut head, args);
        let pointers = pointers(args, &memory.allocations);
        put(&mut head, [pointers.len() as u64]);
        put(&mut head, pointers.into_iter().flatten());
        let before = memory.allocations.iter().map(Allocation::bytes).collect();
        Self { name: name.to_owned(), head, before }
    }

    /// Writes it, with what the launch left, to a file whose name its contents decide.
    pub(crate) fn write(self, folder: &Path, memory: &Memory) -> io::Result<()> {
        let mut file = self.head;
        put(&mut file, [memory.allocations.len() as u64]);
        for (allocation, before) in memory.allocations.iter().zip(&self.before) {
            let sizes = [allocation.rows, allocation.row_bytes, allocation.stride_bytes];
            put(&mut file, sizes.map(|size| size as u64));
            put(&mut file, [allocation.address() % 256, allocation.writable.into()]);
            put_bytes(&mut file, before);
            put_bytes(&mut file, &allocation.bytes());
        }
        let mut hasher = DefaultHasher::new();
        file.hash(&mut hasher);
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join(format!("{}-{:016x}.launch", self.name, hasher.finish())), file)
    }
}
