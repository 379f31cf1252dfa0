//! What the plans and the table of registers let one predict of devices that were not at hand: `docs/performance.md` has the model and the
//! tables.

use crate::devices::device;
use anyhow::{Context, Result};
use logit_perturb::kernel::binary::BinaryPlan;
use logit_perturb::kernel::{DType, Form, LearnForm, LearnPlan, Limits, Plan, Regime};
use std::collections::HashMap;

const TABLE: &str = include_str!("../../kernels/registers.csv");
const LOGITS: usize = 1 << 28;
const REGISTERS: u32 = 65_536;
const WARP: u32 = 32;
/// Shared memory that a block takes for itself, bytes.
const RESERVED: u32 = 1024;
/// Of the data sheet's bandwidth, what a copy reaches at best.
const ATTAINABLE: f64 = 0.9;
/// From a load's issue to its data, microseconds.
const LATENCY: f64 = 0.8;

const STEPS: f64 = 40.0;
/// From one launch to the next in a graph, microseconds.
const LAUNCH: f64 = 2.0;
/// What a step waits for at least, microseconds: by rows; by columns in a block and in a warp, as its dependent instructions add up.
const STEP_BY_ROWS: f64 = 1.5;
const STEP_OF_BLOCK: f64 = 0.5;
const STEP_OF_WARP: f64 = 0.35;
/// A gang's, of which a step has two.
const GRID_BARRIER: f64 = 1.5;
/// What a multiprocessor reads a microsecond of its shared memory, bytes, and the instructions of a lane that it issues.
const SHARED_RATE: f64 = 128.0 * 1700.0;
const ISSUE_RATE: f64 = 128.0 * 1700.0;
/// Instructions a column and step, whatever the rows: of the exponential, above all.
const OF_COLUMN: f64 = 18.0;

struct Device {
    name: &'static str,
    architecture: &'static str,
    /// Bytes a microsecond.
    bandwidth: f64,
    limits: Limits,
}

fn devices() -> [Device; 3] {
    [
        Device { name: "H200", architecture: "90", bandwidth: 4.8e6, limits: device("sm_90") },
        Device { name: "A100 80 GB", architecture: "80", bandwidth: 2.04e6, limits: device("sm_80") },
        Device { name: "RTX 4090", architecture: "89", bandwidth: 1.01e6, limits: device("sm_89") },
    ]
}

/// Registers and static shared memory by architecture and variant.
fn compiled() -> Result<HashMap<(String, String), (u32, u32)>> {
    let mut table = HashMap::new();
    for record in csv::Reader::from_reader(TABLE.as_bytes()).records() {
        let record = record?;
        table.insert((record[1].to_owned(), record[2].to_owned()), (record[3].parse()?, record[6].parse()?));
    }
    Ok(table)
}

/// How a kernel occupies a device.
struct Footprint {
    threads: u32,
    shared: u32,
    registers: u32,
    blocks: u32,
}

impl Footprint {
    fn new(device: &Device, variant: &str, threads: u32, shared: u32) -> Result<Self> {
        let key = (device.architecture.to_owned(), variant.to_owned());
        let (registers, fixed) = *compiled()?.get(&key).with_context(|| format!("{key:?} is not in the table"))?;
        let limits = &device.limits;
        let by_registers = REGISTERS / (registers.next_multiple_of(8) * threads.next_multiple_of(WARP));
        let by_shared = limits.multiprocessor_shared / (shared + fixed + RESERVED);
        let blocks = by_registers.min(by_shared).min(limits.resident_threads / threads).min(limits.resident_blocks);
        Ok(Self { threads, shared, registers, blocks })
    }

    fn occupancy(&self, device: &Device) -> f64 {
        f64::from(self.blocks * self.threads) / f64::from(device.limits.resident_threads)
    }
}

/// Microseconds for so many bytes, of which so many are in flight on a multiprocessor; `None`: enough.
fn predicted(device: &Device, bytes: usize, in_flight: Option<f64>) -> f64 {
    let needed = device.bandwidth * LATENCY / f64::from(device.limits.multiprocessors);
    let share = in_flight.map_or(ATTAINABLE, |in_flight| ATTAINABLE.min(in_flight / needed));
    bytes as f64 / (device.bandwidth * share)
}

fn line(device: &Device, what: &str, how: &str, footprint: &Footprint, must: usize, moved: usize, us: f64) {
    let Footprint { threads, shared, registers, blocks } = footprint;
    println!(
        "| {} | {what} | {how} | {threads} | {registers} | {:.1} | {blocks} | {:.0} % | {:.1} | {:.1} | {us:.0} us | not measured |",
        device.name,
        f64::from(*shared) / 1024.0,
        100.0 * footprint.occupancy(device),
        must as f64 / 1e6,
        moved as f64 / 1e6,
    );
}

/// Microseconds of all steps of so many classes of so many rows each.
fn steps(
    device: &Device,
    plan: &LearnPlan,
    footprint: &Footprint,
    (n, c): (usize, usize),
    classes: f64,
    rows: f64,
) -> f64 {
    let (tile, multiprocessors) = (f64::from(plan.tile_rows(n as i64)), f64::from(device.limits.multiprocessors));
    // Who has a class: how many have one on a multiprocessor, how many share it, rows of each, and what a step waits for.
    let (side_by_side, members, rows, waits) = match rows {
        rows if rows <= f64::from(plan.warp_rows(n as i64)) => {
            (footprint.blocks * footprint.threads / WARP, 1.0, rows, STEP_OF_WARP)
        }
        rows if rows <= f64::from(plan.column_rows()) => (footprint.blocks, 1.0, rows, STEP_OF_BLOCK),
        rows if rows <= tile => (footprint.blocks, 1.0, rows, STEP_BY_ROWS),
        rows => (footprint.blocks, (rows / tile).ceil(), tile, STEP_BY_ROWS + 2.0 * GRID_BARRIER),
    };
    let parts = classes * members;
    let beside = f64::from(side_by_side).min((parts / multiprocessors).ceil());
    let waves = (parts / (f64::from(side_by_side) * multiprocessors)).ceil();
    // A step goes over a class's rows twice, one or more instructions a column and row each. What one team waits for, others use; a warp by itself
    // issues a quarter of what a multiprocessor does.
    let columns = c as f64;
    let busy = ((OF_COLUMN + 2.5 * rows) * columns / ISSUE_RATE).max(2.0 * 4.0 * rows * columns / SHARED_RATE);
    let alone = if waits == STEP_OF_WARP { 4.0 * busy } else { busy };
    waves * STEPS * (waits + alone).max(beside * busy)
}

/// The learner's time with labels uniform, or half of the rows in one class.
fn learner(device: &Device, (n, c): (usize, usize), skewed: bool) -> Result<()> {
    let form = LearnForm { dtype: DType::F32, classes: c, aligned: true };
    let plan = LearnPlan::new(form, device.limits);
    let geometry = plan.geometry(n as i64);
    let footprint = Footprint::new(device, &plan.variant.name(), geometry.threads, geometry.shared)?;
    let spread = if skewed { n as f64 / 2.0 } else { n as f64 };
    let present = c as f64 * (1.0 - (1.0 - 1.0 / c as f64).powf(spread));
    let mut us = steps(device, &plan, &footprint, (n, c), present, spread / present);
    if skewed {
        us += steps(device, &plan, &footprint, (n, c), 1.0, n as f64 / 2.0);
    }
    let must = 2 * 4 * n * c + 8 * n;
    let moved = must + 4 * n * c;
    let us = 3.0 * LAUNCH + us + predicted(device, moved, None);
    let what = format!("learner, {n} x {c}, {}", if skewed { "skewed" } else { "uniform" });
    let place = if plan.is_on_chip() { "" } else { ", in global memory" };
    let how = format!("up to {} rows a warp, {} a block{place}", plan.warp_rows(n as i64), plan.tile_rows(n as i64));
    line(device, &what, &how, &footprint, must, moved, us);
    Ok(())
}

fn header() {
    println!(
        "| device | what | regime | threads | registers | shared KB | blocks | occupancy | must move, MB | moves, MB | predicted | measured |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
}

/// Prints the tables.
pub fn print() -> Result<()> {
    header();
    for device in devices() {
        for dtype in [DType::F32, DType::BF16] {
            for classes in [10, 100, 1000, 4096, 10_000, 32_768, 128_256, 262_144] {
                let plan = Plan::new(Form::plain(dtype, classes), device.limits);
                let footprint = Footprint::new(&device, &plan.variant.name(), plan.threads, plan.shared)?;
                let rows = LOGITS / dtype.bytes() / classes;
                let must = 2 * rows * classes * dtype.bytes() + 8 * rows;
                let two_read = plan.regime() == Regime::TwoRead;
                let moved = must + if two_read { rows * classes * dtype.bytes() } else { 0 };
                let of_block = f64::from(plan.tile_rows) * (classes * dtype.bytes()) as f64 / f64::from(plan.cluster);
                let in_flight = (!two_read).then_some(f64::from(footprint.blocks) * of_block);
                let us = predicted(&device, moved, in_flight);
                let what = format!("cross-entropy, {}, C = {classes}", dtype.name());
                let clusters = if plan.cluster > 1 { format!(" of {}", plan.cluster) } else { String::new() };
                let regime = format!("{:?}{clusters}", plan.regime());
                line(&device, &what, &regime, &footprint, must, moved, us);
            }
            let classes = 1000;
            let plan = BinaryPlan::new(classes, dtype, false, device.limits);
            let footprint = Footprint::new(&device, &plan.variant().name(), plan.threads, 0)?;
            let entries = LOGITS / dtype.bytes();
            let must = 2 * LOGITS + entries;
            let moved = must + entries;
            let what = format!("binary cross-entropy, {}, C = {classes}, i8 targets", dtype.name());
            line(&device, &what, "", &footprint, must, moved, predicted(&device, moved, None));
        }
    }
    println!();
    header();
    for device in devices() {
        for shape in [(128, 10), (128, 100), (1024, 100), (1024, 1000), (4096, 1000), (4096, 10_000)] {
            learner(&device, shape, false)?;
            learner(&device, shape, true)?;
        }
    }
    Ok(())
}
