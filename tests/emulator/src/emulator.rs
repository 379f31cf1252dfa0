//! Launching kernels.

use crate::fault::{Fault, Faults};
use crate::ffi;
use crate::memory::Memory;
use crate::record::Record;
use crate::report::{Report, Traffic};
use logit_perturb::kernel::{Geometry, Variant};
use std::ffi::{c_char, c_void};
use std::io::Write;
use std::path::PathBuf;

/// As many as any device takes; portably it is 8.
const MOST_BLOCKS_OF_CLUSTER: u32 = 16;

/// How launches are executed. Equal options give equal executions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Decides which thread runs when, and when stores reach memory.
    pub seed: u64,
    /// Blocks that run at a time; the others start, in random order, as these end. The blocks of a cluster start together, be they more, and
    /// so do all of a cooperative launch.
    pub resident_blocks: u32,
    /// Whether a thread's stores reach others late: at its fences, its barriers as far as its block is concerned, those of the cluster,
    /// and at random.
    pub store_buffer: bool,
    /// Decides how far each approximate exponential is off.
    pub exp_seed: u64,
    /// By how many units in the last place it is off at most.
    pub exp_ulps: u32,
    /// Accesses and waits after which a launch counts as stuck.
    pub most_steps: u64,
    /// A folder that every launch is written to, for the sanitizers' driver to replay.
    pub record: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            resident_blocks: 2,
            store_buffer: true,
            exp_seed: 0,
            exp_ulps: 2,
            most_steps: 50_000_000,
            record: None,
        }
    }
}

/// Adds a kernel's name to the file that the environment names, for who wants to know which kernels a test launches.
fn note_launched(name: &str) {
    let Some(path) = std::env::var_os("EMULATOR_LAUNCHED") else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    let noted = file.and_then(|mut file| writeln!(file, "{name}"));
    noted.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// A device: its memory, and how it executes.
#[derive(Default)]
pub struct Emulator {
    /// Global memory.
    pub memory: Memory,
    /// How launches are executed, from the next on.
    pub options: Options,
}

impl Emulator {
    /// A device with nothing in its memory.
    pub fn new(options: Options) -> Self {
        Self { memory: Memory::default(), options }
    }

    /// Runs a kernel to its end, with the bytes of its parameter struct.
    ///
    /// # Errors
    /// Every fault found. Memory then holds whatever the kernel left.
    ///
    /// # Panics
    /// When the arguments have another size than the kernel's struct.
    pub fn launch(&mut self, variant: &Variant, geometry: Geometry, args: &[u8]) -> Result<Report, Faults> {
        self.launch_named(&variant.name(), geometry, args)
    }

    /// Runs the kernel of this name: a variant's, or `toy_...` for one that the emulator's own tests are made of.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    ///
    /// # Panics
    /// As [`launch`](Self::launch), and when there is no such kernel.
    pub fn launch_named(&mut self, name: &str, geometry: Geometry, args: &[u8]) -> Result<Report, Faults> {
        let Geometry { grid, cluster, threads, shared, cooperative } = geometry;
        let possible = grid > 0 && (1..=MOST_BLOCKS_OF_CLUSTER).contains(&cluster) && grid % cluster == 0;
        assert!(possible && (1..=1024).contains(&threads), "{geometry:?} cannot be launched");
        // SAFETY: the name is given with its length; the table it is looked up in is constant.
        let kernel = unsafe { ffi::emulator_kernel(name.as_ptr().cast::<c_char>(), name.len()) };
        assert!(!kernel.is_null(), "no kernel is called {name}");
        // SAFETY: not null, so an entry of that table, whose sizes are constants.
        let args_bytes = unsafe { *(*kernel).args_bytes };
        assert_eq!(args.len(), args_bytes as usize, "{name} has arguments of another size");

        note_launched(name);
        let resident_blocks = if cooperative { grid } else { self.options.resident_blocks };
        let options = Options { resident_blocks, ..self.options.clone() };
        let record = options.record.as_ref().map(|_| Record::new(name, geometry, args, &options, &self.memory));
        let mut counts: Vec<[Vec<u32>; 2]> = self.counters();
        let mut regions = self.regions(&mut counts);
        let runtime_options = ffi::Options {
            seed: options.seed,
            exp_seed: options.exp_seed,
            most_steps: options.most_steps,
            exp_ulps: options.exp_ulps,
            resident_blocks,
            store_buffer: options.store_buffer.into(),
            padding: 0,
        };
        let none = ffi::Fault { file: c"".as_ptr(), line: 0, kind: 0, block: 0, thread: 0, text: [0; 200] };
        let mut outcome =
            ffi::Outcome { steps: 0, switches: 0, static_shared: 0, faults: 0, fault: [none; ffi::MOST_FAULTS] };
        // An exact copy at an address aligned for any struct.
        let mut aligned_args = vec![0u128; args.len().div_ceil(16)];
        bytemuck::cast_slice_mut(&mut aligned_args)[..args.len()].copy_from_slice(args);
        // SAFETY: the kernel is from the table and takes arguments of this size. Regions describe memory that `self` owns and that is
        // borrowed exclusively until the launch ends, with counters that live as long; the runtime executes only accesses inside of
        // them. Everything else is a value or a local.
        unsafe {
            ffi::emulator_launch(
                kernel,
                aligned_args.as_ptr().cast::<c_void>(),
                ffi::Geometry { grid, cluster, threads, shared },
                &raw const runtime_options,
                regions.as_mut_ptr(),
                regions.len(),
                &raw mut outcome,
            );
        }
        let sectors: Vec<_> = regions.iter().map(|region| (region.sectors, region.ideal_sectors)).collect();

        let found = (outcome.faults as usize).min(ffi::MOST_FAULTS);
        // SAFETY: the runtime filled in as many.
        let found = outcome.fault[..found].iter().map(|fault| unsafe { Fault::from_runtime(fault) });
        let faults: Vec<_> = found.chain(self.memory.check_canaries().into_iter().map(Fault::canary)).collect();
        if !faults.is_empty() {
            return Err(Faults(faults));
        }
        if let (Some(record), Some(folder)) = (record, &self.options.record) {
            record.write(folder, &self.memory).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        }
        let allocations = self.memory.allocations.iter().zip(counts).zip(sectors).enumerate();
        let traffic = allocations
            .filter(|(_, ((allocation, _), _))| allocation.watched)
            .map(|(index, ((allocation, counts), (moved, ideal)))| {
                (index, Traffic::new(allocation, counts, moved, ideal))
            })
            .collect();
        Ok(Report { steps: outcome.steps, switches: outcome.switches, static_shared: outcome.static_shared, traffic })
    }

    /// Reads and writes of each buffer, none where it is not watched.
    fn counters(&self) -> Vec<[Vec<u32>; 2]> {
        let elements = self.memory.allocations.iter().map(|allocation| {
            let elements = allocation.rows * allocation.row_bytes / allocation.element_bytes;
            if allocation.watched { elements } else { 0 }
        });
        elements.map(|elements| [vec![0; elements], vec![0; elements]]).collect()
    }

    fn regions(&self, counts: &mut [[Vec<u32>; 2]]) -> Vec<ffi::Region> {
        let regions = self.memory.allocations.iter().zip(counts).map(|(allocation, [reads, writes])| ffi::Region {
            base: allocation.address(),
            rows: allocation.rows as u64,
            row_bytes: allocation.row_bytes as u64,
            stride_bytes: allocation.stride_bytes as u64,
            writable: allocation.writable.into(),
            element_bytes: if allocation.watched { allocation.element_bytes as u32 } else { 0 },
            reads: reads.as_mut_ptr(),
            writes: writes.as_mut_ptr(),
            sectors: [0; 2],
            ideal_sectors: [0; 2],
        });
        regions.collect()
    }
}
