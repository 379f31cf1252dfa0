//! What the emulator must report, and must not, shown on kernels of a few lines (`toys.cu`).

use bytemuck::{Pod, Zeroable};
use logit_perturb::kernel::Geometry;
use logit_perturb_emulator::{Buffer, Emulator, FaultKind, Faults, Layout, Options, Report};

/// As in `toys.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ToyArgs {
    input: u64,
    output: u64,
    partials: u64,
    ticket: u64,
    flag: u64,
    n: i64,
}

/// An emulator with every buffer that the toys use.
struct Toy {
    emulator: Emulator,
    cluster: u32,
    args: ToyArgs,
    input: Buffer<f32>,
    output: Buffer<f32>,
}

const SEEDS: std::ops::Range<u64> = 0..20;
const LENGTH: usize = 256;

fn input() -> Vec<f32> {
    (0..LENGTH).map(|i| i as f32 + 1.0).collect()
}

impl Toy {
    fn new(seed: u64, n: usize) -> Self {
        let mut emulator = Emulator::new(Options { seed, most_steps: 200_000, ..Options::default() });
        let memory = &mut emulator.memory;
        let (input, output) = (memory.upload(&input()), memory.poisoned::<f32>(LENGTH));
        memory.read_only(input);
        memory.watch(input);
        memory.watch(output);
        let args = ToyArgs {
            input: input.address(),
            output: output.address(),
            partials: memory.poisoned::<f64>(16).address(),
            ticket: memory.upload(&[0u32]).address(),
            flag: memory.upload(&[0u64]).address(),
            n: n as i64,
        };
        Self { emulator, cluster: 1, args, input, output }
    }

    fn run(&mut self, name: &str, grid: u32, threads: u32) -> Result<Report, Faults> {
        let geometry = Geometry { grid, cluster: self.cluster, threads, shared: 128, cooperative: false };
        self.emulator.launch_named(&format!("toy_{name}"), geometry, bytemuck::bytes_of(&self.args))
    }

    fn output(&self) -> Vec<f32> {
        self.emulator.memory.download(self.output)
    }
}

/// For how many seeds the kernel leaves anything but `expected` at the start of its output.
fn wrong(name: &str, grid: u32, threads: u32, n: usize, residents: u32, expected: &[f32]) -> usize {
    wrong_in_clusters(name, grid, 1, threads, n, residents, expected)
}

fn wrong_in_clusters(
    name: &str,
    grid: u32,
    cluster: u32,
    threads: u32,
    n: usize,
    residents: u32,
    expected: &[f32],
) -> usize {
    let is_wrong = |seed: &u64| {
        let mut toy = Toy::new(*seed, n);
        (toy.cluster, toy.emulator.options.resident_blocks) = (cluster, residents);
        toy.run(name, grid, threads).unwrap_or_else(|faults| panic!("{name}, seed {seed}: {faults}"));
        toy.output()[..expected.len()] != *expected
    };
    let count = SEEDS.filter(is_wrong).count();
    println!("{name}: wrong for {count} of {} seeds, clusters of {cluster}, {residents} resident block(s)", SEEDS.end);
    count
}

/// The one fault that every seed reports, in its words, with the line's text.
fn fault(name: &str, threads: u32, n: usize) -> (FaultKind, String) {
    fault_in_cluster(name, 1, threads, n)
}

fn fault_in_cluster(name: &str, cluster: u32, threads: u32, n: usize) -> (FaultKind, String) {
    let source: Vec<&str> = include_str!("toys.cu").lines().collect();
    let mut of_seed = SEEDS.map(|seed| {
        let mut toy = Toy::new(seed, n);
        toy.cluster = cluster;
        let faults = toy.run(name, cluster, threads).expect_err(name);
        let first = faults.0[0].clone();
        let line = first.file.ends_with("toys.cu").then(|| source[first.line as usize - 1]);
        (first.kind, line.unwrap_or_default().trim().to_owned())
    });
    let first = of_seed.next().unwrap();
    of_seed.for_each(|other| assert_eq!(first.0, other.0));
    first
}

#[test]
fn a_missing_barrier_is_wrong_for_some_seeds() {
    let mut expected = input()[..64].to_vec();
    expected.rotate_left(1);
    assert_eq!(wrong("neighbour", 1, 64, 0, 1, &expected), 0);
    assert!(wrong("neighbour_without_barrier", 1, 64, 0, 1, &expected) >= 15);
}

#[test]
fn a_missing_fence_is_wrong_for_some_seeds() {
    let expected = [input().iter().sum::<f32>()];
    for residents in [1, 2, 8] {
        assert_eq!(wrong("sum", 8, 64, LENGTH, residents, &expected), 0);
        // With one block at a time, each block's second fence comes before the next block's ticket.
        let at_least = if residents == 1 { 0 } else { 3 };
        assert!(wrong("sum_without_fence", 8, 64, LENGTH, residents, &expected) >= at_least);
        let expected = [input()[..8].iter().sum::<f32>()];
        assert_eq!(wrong("sum_by_last_block", 8, 64, 0, residents, &expected), 0);
    }
}

#[test]
fn without_the_store_buffer_stores_are_seen_at_once() {
    for seed in SEEDS {
        let mut toy = Toy::new(seed, LENGTH);
        toy.emulator.options.store_buffer = false;
        toy.run("sum_without_fence", 8, 64).unwrap();
        assert_eq!(toy.output()[0], input().iter().sum::<f32>());
    }
}

#[test]
fn a_block_sees_its_stores_after_a_barrier() {
    let expected: Vec<f32> = (0..64).map(|i| input()[i ^ 1]).collect();
    assert_eq!(wrong("exchange_through_memory", 1, 64, 0, 1, &expected), 0);
    // What a thread stores does not reach memory before what its block stored there earlier.
    assert_eq!(wrong("add_in_turn", 1, 64, 0, 1, &[23.0; 64]), 0);
}

#[test]
fn barriers_that_not_all_threads_reach() {
    assert_eq!(fault("barrier_after_exit", 64, 40), (FaultKind::DivergentBarrier, "block_barrier();".into()));
    assert_eq!(fault("two_barriers", 64, 40), (FaultKind::DivergentBarrier, "block_barrier();".into()));
    SEEDS.for_each(|seed| drop(Toy::new(seed, 64).run("barrier_after_exit", 2, 64).unwrap()));
}

#[test]
fn shuffles_that_not_all_lanes_reach() {
    let (kind, line) = fault("shuffle_in_half_a_warp", 64, 0);
    assert!(kind == FaultKind::DivergentShuffle && line.contains("shuffle_xor"), "{line}");
    assert_eq!(fault("shuffle_past_a_barrier", 64, 0).0, FaultKind::DivergentShuffle);
    // A block of a warp and a half.
    assert_eq!(fault("warp_sum", 48, 0).0, FaultKind::DivergentShuffle);
    let sums: Vec<f32> = input()[..64].chunks(32).flat_map(|x| [x.iter().sum::<f32>(); 32]).collect();
    assert_eq!(wrong("warp_sum", 1, 64, 0, 1, &sums), 0);
}

#[test]
fn accesses_outside_of_buffers_are_not_executed() {
    assert_eq!(fault("copy_too_far", 512, 0).0, FaultKind::OutOfBounds);
    let mut toy = Toy::new(0, 0);
    toy.run("copy_too_far", 1, 260).unwrap_err();
    assert_eq!(toy.output(), input());
    assert_eq!(fault("write_what_is_read", 1, 0).0, FaultKind::ReadOnly);
}

#[test]
fn accesses_to_stride_gaps_and_odd_addresses() {
    let mut toy = Toy::new(0, 64);
    let rows = toy.emulator.memory.upload_rows(&[1f32; 60], Layout::dense(4, 15).stride(16));
    toy.args.input = rows.address();
    let faults = toy.run("copy", 1, 64).unwrap_err();
    // The last row has no gap behind it: there is the end.
    let kinds: Vec<_> = faults.0.iter().map(|fault| fault.kind).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == FaultKind::StrideGap).count(), 3, "{faults}");
    assert_eq!(kinds.iter().filter(|kind| **kind == FaultKind::OutOfBounds).count(), 1, "{faults}");

    let mut toy = Toy::new(0, 64);
    toy.args.input += 4;
    assert!(toy.run("copy_by_four", 1, 1).unwrap_err().any(FaultKind::Misaligned));
}

#[test]
fn rows_far_apart_cost_only_the_pages_they_touch() {
    let mut toy = Toy::new(0, 1);
    // 20 GiB from the first row to the last.
    let stride = (1 << 31) + 5;
    let rows = toy.emulator.memory.upload_rows(&[7f32, 8.0, 9.0], Layout::dense(3, 1).stride(stride));
    toy.args.input = rows.address() + 8 * stride as u64;
    toy.run("copy", 1, 1).unwrap();
    assert_eq!(toy.output()[0], 9.0);
}

#[test]
fn reads_and_writes_are_counted_by_element() {
    let mut toy = Toy::new(3, 0);
    let report = toy.run("touch_twice", 2, 64).unwrap();
    let twice: Vec<u32> = (0..LENGTH).map(|i| if i < 128 { 2 } else { 0 }).collect();
    assert_eq!(report.traffic(toy.input).reads, twice);
    assert_eq!(report.traffic(toy.output).writes, twice);
    assert!(report.traffic(toy.input).writes.iter().all(|writes| *writes == 0));

    let report = Toy::new(3, LENGTH).run("copy_by_four", 2, 32).unwrap();
    assert!(report.traffic(toy.input).reads.iter().all(|reads| *reads == 1));
}

#[test]
fn uncoalesced_accesses_move_more_sectors() {
    for seed in SEEDS {
        let sectors = |name: &str, threads: u32| {
            let mut toy = Toy::new(seed, LENGTH);
            let report = toy.run(name, 1, threads).unwrap();
            let traffic = [report.traffic(toy.input).read_sectors, report.traffic(toy.output).write_sectors];
            traffic.map(|sectors| [sectors.moved, sectors.ideal, sectors.distinct])
        };
        assert_eq!(sectors("copy", 256), [[32, 32, 32]; 2]);
        assert_eq!(sectors("copy_by_four", 64), [[32, 32, 32]; 2]);
        assert_eq!(sectors("copy_by_runs", 32), [[256, 32, 32]; 2]);
    }
}

#[test]
fn a_launch_that_does_not_end_is_reported() {
    assert_eq!(fault("wait_for_nobody", 32, 0).0, FaultKind::NoProgress);
}

#[test]
fn blocks_can_wait_for_resident_blocks() {
    let mut stuck = 0;
    for seed in SEEDS {
        let mut toy = Toy::new(seed, 0);
        toy.emulator.options.resident_blocks = 8;
        toy.run("blocks_in_turn", 8, 32).unwrap_or_else(|faults| panic!("seed {seed}: {faults}"));
        assert_eq!(toy.output()[..8], input()[..8]);
        // A block that waits for one that has not started yet waits for ever.
        toy = Toy::new(seed, 0);
        toy.emulator.options.resident_blocks = 1;
        stuck += usize::from(toy.run("blocks_in_turn", 8, 32).is_err_and(|faults| faults.any(FaultKind::NoProgress)));
    }
    assert_eq!(stuck, SEEDS.end as usize);
}

#[test]
fn shared_memory_is_poisoned_and_fenced_in() {
    assert_eq!(fault("write_past_shared", 1, 32).0, FaultKind::SharedOverrun);
    SEEDS.for_each(|seed| drop(Toy::new(seed, 31).run("write_past_shared", 1, 1).unwrap()));
    let mut toy = Toy::new(0, 0);
    let report = toy.run("read_shared", 2, 32).unwrap();
    assert!(toy.output()[..32].iter().all(|x| x.is_nan()));
    assert_eq!(report.static_shared, 128);
}

/// What every thread of each of 16 blocks has, sixteen times a block, where `of_cluster` is what the blocks of a cluster have of its input.
fn in_clusters(cluster: u32, of_cluster: impl Fn(&[f32]) -> Vec<f32>) -> Vec<f32> {
    let of_blocks = input()[..16].chunks(cluster as usize).flat_map(of_cluster).collect::<Vec<_>>();
    of_blocks.into_iter().flat_map(|x| [x; 16]).collect()
}

const CLUSTERS: [u32; 4] = [1, 2, 4, 16];

#[test]
fn a_cluster_reduces_over_its_blocks() {
    for cluster in CLUSTERS {
        let expected = in_clusters(cluster, |x| vec![3.0 * x.iter().sum::<f32>() + 1000.0 * x[0]; x.len()]);
        // Fewer than a cluster, some clusters and a half, all.
        for residents in [1, 6, 16] {
            assert_eq!(wrong_in_clusters("cluster_sums", 16, cluster, 64, 0, residents, &expected), 0);
        }
        let in_one_place = wrong_in_clusters("cluster_sums_in_one_place", 16, cluster, 64, 0, 6, &expected);
        assert!(in_one_place >= 3, "{in_one_place}");
    }
}

#[test]
fn a_missing_cluster_barrier_is_wrong_for_some_seeds() {
    for cluster in CLUSTERS {
        let expected = in_clusters(cluster, |x| (0..x.len()).map(|i| 2.0 * x[(i + 1) % x.len()]).collect());
        for residents in [1, 6] {
            let wrong = |name| wrong_in_clusters(name, 16, cluster, 64, 0, residents, &expected);
            assert_eq!(wrong("next_block"), 0);
            assert_eq!(wrong("next_block_through_memory"), 0);
            assert!(wrong("next_block_too_early") >= 15);
        }
    }
}

#[test]
fn a_block_that_ends_before_its_peer_has_read_is_reported() {
    for cluster in CLUSTERS {
        let reports = |seed: &u64| {
            let mut toy = Toy::new(*seed, 0);
            toy.cluster = cluster;
            let Err(faults) = toy.run("next_block_too_late", 16, 64) else { return false };
            let fault = &faults.0[0];
            let line = include_str!("toys.cu").lines().nth(fault.line as usize - 1).unwrap();
            assert!(faults.0.iter().all(|fault| fault.kind == FaultKind::PeerAccess), "{faults}");
            assert!(fault.file.ends_with("toys.cu") && line.contains("load_peer(x + 3, next)"), "{faults}");
            true
        };
        let reported = SEEDS.filter(reports).count();
        println!("clusters of {cluster}: {reported} of {} seeds", SEEDS.end);
        // A block cannot end before it has read itself.
        assert!(if cluster == 1 { reported == 0 } else { reported >= 15 }, "{reported}");
    }
}

#[test]
fn reads_of_what_no_peer_has() {
    for cluster in CLUSTERS {
        let (kind, line) = fault_in_cluster("peer_beyond_cluster", cluster, 32, 0);
        assert!(kind == FaultKind::PeerAccess && line.contains("load_peer"), "{line}");
        let (kind, line) = fault_in_cluster("peer_beyond_array", cluster, 32, 0);
        assert!(kind == FaultKind::PeerAccess && line.contains("load_peer"), "{line}");
    }
}

#[test]
fn cluster_barriers_that_not_all_threads_reach() {
    for (name, n) in
        [("cluster_barrier_after_exit", 40), ("cluster_barrier_of_some_blocks", 1), ("two_cluster_barriers", 1)]
    {
        let (kind, line) = fault_in_cluster(name, 2, 64, n);
        assert!(kind == FaultKind::DivergentBarrier && line.contains("cluster_barrier();"), "{name}: {line}");
        for seed in SEEDS {
            let mut toy = Toy::new(seed, 64);
            toy.cluster = 2;
            toy.run(name, 8, 64).unwrap();
        }
    }
}

#[test]
fn exponentials_are_off_by_a_little() {
    let exact = |x: f32| f64::from(x).exp2();
    let run = |arguments: &[f32], exp_seed: u64, exp_ulps: u32| {
        let mut toy = Toy::new(0, LENGTH);
        (toy.emulator.options.exp_seed, toy.emulator.options.exp_ulps) = (exp_seed, exp_ulps);
        toy.emulator.memory.write(toy.input, arguments);
        toy.run("exponentials", 1, 256).unwrap();
        toy.output()
    };
    let arguments: Vec<f32> = (0..LENGTH).map(|i| i as f32 * 0.98 - 124.3).collect();
    let ulps = |results: &[f32]| -> Vec<i64> {
        let of = |(x, y): (&f32, &f32)| i64::from(y.to_bits()) - i64::from((exact(*x) as f32).to_bits());
        arguments.iter().zip(results).map(of).collect()
    };
    let results = run(&arguments, 1, 2);
    assert_eq!(results, run(&arguments, 1, 2));
    assert_ne!(results, run(&arguments, 2, 2));
    let off = ulps(&results);
    assert_eq!((*off.iter().min().unwrap(), *off.iter().max().unwrap()), (-2, 2));
    assert!(ulps(&run(&arguments, 1, 0)).iter().all(|ulps| *ulps == 0));

    let mut corners = vec![0.0f32; LENGTH];
    let special = [0.0, -0.0, 1e-40, f32::NEG_INFINITY, f32::INFINITY, f32::NAN, -126.5, -1000.0, 128.0, 127.99999];
    corners[..special.len()].copy_from_slice(&special);
    let results = run(&corners, 5, 2);
    assert_eq!(results[..5], [1.0, 1.0, 1.0, 0.0, f32::INFINITY]);
    assert!(results[5].is_nan());
    assert_eq!(results[6..9], [0.0, 0.0, f32::INFINITY]);
    assert!(results[9] > 3.4e38);
}

#[test]
fn equal_options_give_equal_executions() {
    let run = |seed| {
        let report = Toy::new(seed, LENGTH).run("sum", 8, 64).unwrap();
        (report.steps, report.switches)
    };
    SEEDS.for_each(|seed| assert_eq!(run(seed), run(seed)));
    assert!(SEEDS.map(run).any(|switches| switches != run(0)));
}
