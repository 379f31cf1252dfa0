//! CUDA graphs: what a capture holds, replays on new labels, and what a capture needs.

use crate::batch::{Batch, Given, OnDevice, Outcome, dense, row_outputs};
use crate::corners::{LABELS_IN_BLOCK, expect_bad};
use crate::device::{Device, Placed, poison, upload};
use libtest_mimic::Failed;
use logit_perturb::cuda::{CrossEntropyOp, DeviceLabels, DevicePass};
use logit_perturb::cudarc::driver::{CudaGraph, CudaStream, sys};
use logit_perturb::{CrossEntropy, Error, Reduction};
use logit_perturb_emulator::{Gradient, Rows};
use std::sync::Arc;

/// Captures what `work` enqueues, in the mode that refuses every unsafe call of any thread.
pub(crate) fn capture(
    stream: &Arc<CudaStream>,
    work: impl FnOnce() -> logit_perturb::Result<()>,
) -> Result<CudaGraph, Failed> {
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL)?;
    let done = work();
    // Ended whatever came of the work: an open capture would refuse what the other tests do.
    let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
    done?;
    graph?.ok_or_else(|| "the capture gave no graph".into())
}

/// A kernel node by its threads a block; any other node by its type's number.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Kernel { threads: u32 },
    Other(u32),
}

fn nodes(graph: &CudaGraph) -> Result<Vec<Node>, Failed> {
    let mut count = 0;
    // SAFETY: the graph is alive, and without an array the driver only tells the number of nodes.
    unsafe { sys::cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &mut count) }.result()?;
    let mut handles: Vec<sys::CUgraphNode> = vec![std::ptr::null_mut(); count];
    // SAFETY: the array has as many places as `count` says.
    unsafe { sys::cuGraphGetNodes(graph.cu_graph(), handles.as_mut_ptr(), &mut count) }.result()?;
    let node = |&handle: &sys::CUgraphNode| {
        // A number, since a driver may know types that the bindings do not.
        let mut kind = u32::MAX;
        // SAFETY: the node is one of the graph; the type is an enum of 32 bits.
        unsafe { sys::cuGraphNodeGetType(handle, (&raw mut kind).cast()) }.result()?;
        if kind != sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_KERNEL as u32 {
            return Ok(Node::Other(kind));
        }
        let mut parameters = std::mem::MaybeUninit::<sys::CUDA_KERNEL_NODE_PARAMS>::zeroed();
        // SAFETY: the node is a kernel node, and the struct, whose integers and pointers may all be zero, is the one that the call fills in.
        let parameters = unsafe {
            sys::cuGraphKernelNodeGetParams_v2(handle, parameters.as_mut_ptr()).result()?;
            parameters.assume_init()
        };
        Ok(Node::Kernel { threads: parameters.blockDimX })
    };
    let mut nodes = handles.iter().map(node).collect::<Result<Vec<_>, Failed>>()?;
    nodes.sort();
    Ok(nodes)
}

/// Threads of a block of the label pre-pass and of the class statistics.
const SMALL_THREADS: u32 = 256;

/// No memset, no copy, no allocation: the kernel that the plan names, before it the pre-pass where there are too many labels, and after it the
/// class statistics where they are asked for.
pub fn nodes_are_the_kernels() -> Result<(), Failed> {
    let device = Device::get();
    let stream = &device.stream;
    let shapes = [
        (9, 10, false, 1),
        (30, 100, false, 1),
        (30, 700, true, 2),
        (3, 20_003, true, 2),
        (3, 40_000, false, 1),
        (LABELS_IN_BLOCK, 3, true, 2),
        (LABELS_IN_BLOCK + 1, 3, false, 2),
        (LABELS_IN_BLOCK + 1, 3, true, 3),
    ];
    for (rows, c, statistics, kernels) in shapes {
        let batch = Batch::random(rows, c, 1);
        for place in [Gradient::None, Gradient::InPlace, Gradient::Into(dense(c))] {
            // No launch before the capture: a prepared operation needs no rehearsal.
            let outputs = if statistics { row_outputs().statistics() } else { row_outputs() };
            let mut op = device.operation::<f32>(&batch.problem, batch.setup().outputs(outputs))?;
            let labels = upload(stream, &batch.labels)?;
            let mut logits = Placed::<f32>::new(stream, Some(&batch.logits), (rows, c), dense(c))?;
            let mut gradient = Placed::new(stream, None, (rows, c), dense(c))?;
            poison(stream, &op)?;
            let pass = match place {
                Gradient::None => DevicePass::Forward(logits.view()?),
                Gradient::InPlace => DevicePass::InPlace(logits.view_mut()?),
                Gradient::Into(_) => DevicePass::Into { logits: logits.view()?, gradient: gradient.view_mut()? },
            };
            let labels = DeviceLabels::I64(labels.slice(..rows));
            let graph = capture(stream, || op.enqueue(pass, labels))?;
            let (found, plans) = (nodes(&graph)?, op.describe());
            let what = format!("{rows} x {c}, {place:?}: {found:?}, planned {plans:?}");
            // No row length here is taken by as many threads, so that the others are told from the main kernel.
            let mut main = found.iter().filter(|&node| *node != Node::Kernel { threads: SMALL_THREADS });
            let planned = |node: &Node| match node {
                Node::Kernel { threads } => plans.iter().any(|plan| plan.contains(&format!(": {threads} threads"))),
                Node::Other(_) => false,
            };
            if found.len() != kernels || !main.next().is_some_and(planned) || main.next().is_some() {
                return Err(what.into());
            }
            graph.launch()?;
            let (in_place, into) = (logits.download(stream)?, gradient.download(stream));
            let gradient = match place {
                Gradient::None => Vec::new(),
                Gradient::InPlace => in_place,
                Gradient::Into(_) => into?,
            };
            batch.compare(&Outcome { gradient, ..batch.results(stream, &op)? })?;
        }
    }
    Ok(())
}

/// A captured batch whose labels and logits stay where they are: good labels, others, bad ones, none, and good ones again.
pub fn replay_with_new_labels() -> Result<(), Failed> {
    let device = Device::get();
    let stream = &device.stream;
    for (rows, c) in [(9, 10), (40, 100), (40, 700), (9, 20_003), (LABELS_IN_BLOCK + 5, 3)] {
        let mut batch = Batch::random(rows, c, 2);
        let mut op = batch.operation::<f32>(device)?;
        let at = Rows { stride: c + 1, offset: 3 };
        let logits = Placed::<f32>::new(stream, Some(&batch.logits), (rows, c), at)?;
        let mut gradient = Placed::new(stream, None, (rows, c), at)?;
        let mut labels = upload(stream, &batch.labels)?;
        let pass = DevicePass::Into { logits: logits.view()?, gradient: gradient.view_mut()? };
        let on_device = DeviceLabels::I64(labels.slice(..rows));
        let graph = capture(stream, || op.enqueue(pass, on_device))?;
        let good = batch.labels.clone();
        let others: Vec<i64> = good.iter().map(|label| (label + 1) % c as i64).collect();
        let mut bad = others.clone();
        (bad[3], bad[rows - 1]) = (-1, c as i64);
        let ignored = vec![-100; rows];
        for (new, expected) in
            [(&good, None), (&others, None), (&bad, Some((3, -1, 2))), (&ignored, None), (&good, None)]
        {
            batch.labels.clone_from(new);
            stream.memcpy_htod(new, &mut labels)?;
            poison(stream, &op)?;
            graph.launch()?;
            batch.compare(&Outcome { gradient: gradient.download(stream)?, ..batch.results(stream, &op)? })?;
            expect_bad(&mut op, expected)?;
        }
        // A bad label that nobody asks for is kept over replays.
        stream.memcpy_htod(&bad, &mut labels)?;
        graph.launch()?;
        graph.launch()?;
        stream.memcpy_htod(&good, &mut labels)?;
        graph.launch()?;
        expect_bad(&mut op, Some((3, -1, 4)))?;
    }
    Ok(())
}

/// Divisor and upstream gradient on the device, as a trainer that learns the global count late changes them between replays; the gradient
/// with the loss, and in a launch of its own.
pub fn replay_with_new_numbers() -> Result<(), Failed> {
    let device = Device::get();
    let stream = &device.stream;
    for (rows, c) in [(9, 10), (40, 100), (40, 700), (9, 20_003), (LABELS_IN_BLOCK + 5, 3)] {
        for split in [false, true] {
            let problem = CrossEntropy::builder().reduction(Reduction::Divisor(1.0)).z_loss(1e-3).build()?;
            let (divisor, upstream) = (Some(Given::Device(f32::NAN)), Given::Device(f32::NAN));
            let mut batch = Batch { problem, divisor, upstream, ..Batch::random(rows, c, 2) };
            batch.labels[1] = -100;
            let setup = batch.setup().outputs(row_outputs().statistics().saved());
            let mut op = device.operation::<f32>(&batch.problem, setup)?;
            let logits = Placed::<f32>::new(stream, Some(&batch.logits), (rows, c), dense(c))?;
            let mut gradient = Placed::<f32>::new(stream, None, (rows, c), dense(c))?;
            let mut beside = OnDevice::<f32>::new(stream, &batch)?;
            let graph = capture(stream, || {
                if split {
                    op.enqueue(DevicePass::Forward(logits.view()?), beside.batch()?)?;
                }
                let pass = DevicePass::Into { logits: logits.view()?, gradient: gradient.view_mut()? };
                if split { op.enqueue_backward(pass, beside.batch()?) } else { op.enqueue(pass, beside.batch()?) }
            })?;
            // The loss, its statistics, the gradient on its own, and the pre-pass: once, since only the loss checks labels.
            let kernels = 2 + usize::from(split) + usize::from(rows > LABELS_IN_BLOCK);
            let found = nodes(&graph)?;
            if found.len() != kernels || found.iter().any(|node| matches!(node, Node::Other(_))) {
                return Err(format!("{rows} x {c}, split: {split}: {found:?}, expected {kernels} kernels").into());
            }
            for (divisor, upstream) in [(1.0, 1.0), (8.5, 1.0), (8.5, -3.0), (0.125, 0.0), (1.0, 1.0)] {
                (batch.divisor, batch.upstream) = (Some(Given::Device(divisor)), Given::Device(upstream));
                let (Some(divisors), Some(upstreams)) = (&mut beside.divisor, &mut beside.upstream) else {
                    return Err("the numbers are not on the device".into());
                };
                stream.memcpy_htod(&[divisor], divisors)?;
                stream.memcpy_htod(&[upstream], upstreams)?;
                poison(stream, &op)?;
                graph.launch()?;
                batch.compare(&Outcome { gradient: gradient.download(stream)?, ..batch.results(stream, &op)? })?;
            }
            op.check()?;
        }
    }
    Ok(())
}

/// A graph runs on when operation and kernels are gone and their memory would have gone to others.
pub fn outlive_the_operation() -> Result<(), Failed> {
    let Device { kernels, stream } = Device::untracked()?;
    for (rows, c) in [(9, 10), (LABELS_IN_BLOCK + 5, 3), (9, 20_003)] {
        let batch = Batch::random(rows, c, 2);
        let shape = (rows, c);
        let labels = upload(&stream, &batch.labels)?;
        let logits = Placed::<f32>::new(&stream, Some(&batch.logits), shape, dense(c))?;
        let mut gradient = Placed::new(&stream, None, shape, dense(c))?;
        let (graph, _held) = {
            // Kernels of its own, which go at the end of this block.
            let kernels = logit_perturb::cuda::Kernels::of(kernels.context())?;
            let device = Device { kernels, stream: Arc::clone(&stream) };
            let mut op = batch.operation::<f32>(&device)?;
            let pass = DevicePass::Into { logits: logits.view()?, gradient: gradient.view_mut()? };
            let labels = DeviceLabels::I64(labels.slice(..rows));
            (capture(&stream, || op.enqueue(pass, labels))?, op.captured_workspace())
        };
        stream.synchronize()?;
        // Takes what was freed, if anything was, and fills it with what no workspace holds.
        let others = (0..64).map(|i| stream.clone_htod(&vec![u32::MAX; 1 << (i % 16)]));
        let others = others.collect::<Result<Vec<_>, _>>()?;
        for _ in 0..3 {
            graph.launch()?;
            let outcome = Outcome { gradient: gradient.download(&stream)?, ..Outcome::default() };
            batch.compare(&outcome)?;
        }
        for other in &others {
            if stream.clone_dtoh(other)?.iter().any(|&x| x != u32::MAX) {
                return Err("the graph wrote to memory that is another's".into());
            }
        }
    }
    Ok(())
}

fn expect_conflict(result: logit_perturb::Result<()>) -> Result<(), Failed> {
    match result {
        Err(Error::Conflict { argument, .. }) if argument.contains("event tracking") => Ok(()),
        other => Err(format!("expected the conflict with event tracking, not {other:?}").into()),
    }
}

/// cudarc's events and captures do not go together: an error says so before anything is recorded, and the stream works on.
pub fn refused_under_event_tracking() -> Result<(), Failed> {
    let device = Device::tracked()?;
    let stream = &device.stream;
    let batch = Batch::random(9, 10, 2);
    let mut op = batch.operation::<f32>(&device)?;
    let labels = upload(stream, &batch.labels)?;
    let logits = Placed::<f32>::new(stream, Some(&batch.logits), (9, 10), dense(10))?;
    let enqueue = |op: &mut CrossEntropyOp<f32>| {
        op.enqueue(DevicePass::Forward(logits.view()?), DeviceLabels::I64(labels.slice(..9)))
    };
    let mut refused = Ok(());
    let graph = capture(stream, || {
        refused = enqueue(&mut op);
        Ok(())
    })?;
    expect_conflict(refused)?;
    if !nodes(&graph)?.is_empty() {
        return Err("the refused enqueue left something in the graph".into());
    }
    // A workspace that a graph may share is one that events cannot follow.
    let held = op.captured_workspace();
    expect_conflict(enqueue(&mut op))?;
    drop(held);
    enqueue(&mut op)?;
    batch.compare(&batch.results(stream, &op)?)
}
