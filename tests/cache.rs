//! The cache of compiled kernels: what it keeps, what it does not believe, and that it is never in the way. Needs the NVRTC library and no
//! GPU; without it the tests are shown as ignored, and fail where `LOGIT_PERTURB_REQUIRE` lists `nvrtc`. The tests of a missing NVRTC run
//! everywhere.

use libtest_mimic::{Arguments, Failed, Trial};
use logit_perturb::Error;
use logit_perturb::cuda::{Compilation, compiler_version};
use logit_perturb::kernel::{DType, Regime, Variant};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A test: its name and what it does.
type Test = (&'static str, fn() -> Result<(), Failed>);

const TESTS: &[Test] = &[
    ("the_second_load_comes_from_the_file", second_load),
    ("damaged_files_are_ignored_and_replaced", damaged_files),
    ("a_folder_that_cannot_be_written_costs_only_time", unwritable_folder),
    ("no_folder_means_no_cache", no_folder),
    ("threads_may_race", threads_race),
    ("processes_may_race", processes_race),
    ("variants_and_architectures_have_files_of_their_own", own_files),
    ("unknown_architectures_are_named", unknown_architectures),
    ("what_was_cached_needs_no_compiler", cached_without_compiler),
];

const WITHOUT_NVRTC: &[Test] = &[("without_nvrtc_compiling_is_an_error", without_nvrtc)];

/// Makes this program load a kernel into the cache in this folder and end: `ok` or the error goes to standard output.
const CHILD: &str = "LOGIT_PERTURB_TEST_CHILD";
const NVRTC: &str = "LOGIT_PERTURB_NVRTC";

fn main() {
    if let Some(folder) = std::env::var_os(CHILD) {
        match compilation().load_from(Some(Path::new(&folder))) {
            Ok(code) => {
                println!("ok: {} bytes, {}", code.cubin.len(), if code.log.is_empty() { "cached" } else { "compiled" })
            }
            Err(error) => println!("{error:?}"),
        }
        return;
    }
    let mut arguments = Arguments::from_args();
    let required = std::env::var("LOGIT_PERTURB_REQUIRE").is_ok_and(|list| list.split(',').any(|name| name == "nvrtc"));
    if required {
        arguments.ignored = false;
    }
    let ignored = !required && compiler_version().is_err();
    let trial = |&(name, test): &Test| Trial::test(name, test);
    let trials = TESTS.iter().map(|test| trial(test).with_ignored_flag(ignored));
    let trials = trials.chain(WITHOUT_NVRTC.iter().map(trial)).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// The kernel that compiles fastest.
fn compilation() -> Compilation {
    Compilation::new(Variant::Tally, 90)
}

/// An empty folder, which goes when it is dropped.
fn folder() -> Result<TempDir, Failed> {
    Ok(tempfile::tempdir()?)
}

/// The files of a folder, by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Failed> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        files.push(entry?.path());
    }
    files.sort();
    Ok(files)
}

fn only_file(folder: &Path) -> Result<PathBuf, Failed> {
    match files(folder)?.as_slice() {
        [file] => Ok(file.clone()),
        other => Err(format!("expected one file, found {other:?}").into()),
    }
}

fn expect(holds: bool, what: &str) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(what.into()) }
}

/// This program as a child that loads a kernel; what it said.
fn child(folder: &Path, nvrtc: Option<&str>) -> Result<Command, Failed> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(CHILD, folder);
    if let Some(path) = nvrtc {
        command.env(NVRTC, path);
    }
    Ok(command)
}

fn said(command: &mut Command) -> Result<String, Failed> {
    let output = command.output()?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into()),
    }
}

fn second_load() -> Result<(), Failed> {
    // The folder is made where it is not there.
    let folder = folder()?;
    let deeper = folder.path().join("deeper").join("still");
    let folder = deeper.as_path();
    let first = compilation().load_from(Some(folder))?;
    expect(first.cubin.starts_with(b"\x7fELF"), "the first load gave no device code")?;
    expect(!first.log.is_empty(), "the first load did not compile")?;
    let file = only_file(folder)?;
    let written = std::fs::metadata(&file)?.modified()?;
    let second = compilation().load_from(Some(folder))?;
    expect(second.log.is_empty(), "the second load compiled")?;
    expect(second.cubin == first.cubin, "the second load gave other code")?;
    expect(std::fs::metadata(only_file(folder)?)?.modified()? == written, "the second load wrote")
}

fn damaged_files() -> Result<(), Failed> {
    let folder = folder()?;
    let folder = folder.path();
    let first = compilation().load_from(Some(folder))?;
    let file = only_file(folder)?;
    let whole = std::fs::read(&file)?;
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let other = Compilation::new(Variant::Tally, 80).compile()?.cubin;
    let damages = [
        ("empty", Vec::new()),
        ("shorter than its hash", whole[..20].to_vec()),
        ("cut short", whole[..whole.len() - 1].to_vec()),
        ("longer", [&whole[..], &[0]].concat()),
        ("with a bit of its hash flipped", flipped(3)),
        ("with a bit of its first byte flipped", flipped(32)),
        ("with a bit of its last byte flipped", flipped(whole.len() - 1)),
        ("zeros", vec![0; whole.len()]),
        ("foreign", b"not a kernel".repeat(1000)),
        ("another architecture's, without a hash", other),
    ];
    for (what, bytes) in damages {
        std::fs::write(&file, bytes)?;
        let again = compilation().load_from(Some(folder))?;
        expect(!again.log.is_empty(), &format!("a file {what} was believed"))?;
        expect(again.cubin == first.cubin, &format!("a file {what}: other code"))?;
        expect(
            only_file(folder)? == file && std::fs::read(&file)? == whole,
            &format!("a file {what} was not replaced"),
        )?;
    }
    // In the way of the file lies something that is none.
    std::fs::remove_file(&file)?;
    std::fs::create_dir(&file)?;
    let again = compilation().load_from(Some(folder))?;
    expect(again.cubin == first.cubin, "a folder in the file's place: other code")
}

/// A file lies where the folder should be, which even root cannot write through.
fn unwritable_folder() -> Result<(), Failed> {
    let folder = folder()?;
    let file = folder.path().join("file");
    std::fs::write(&file, "in the way")?;
    for folder in [file.clone(), file.join("below"), PathBuf::from("/proc/nowhere"), PathBuf::from("\0")] {
        for _ in 0..2 {
            let code = compilation().load_from(Some(&folder))?;
            expect(!code.log.is_empty(), &format!("{folder:?} gave code without compiling"))?;
        }
    }
    expect(std::fs::read(&file)? == b"in the way", "the file in the way was changed")
}

fn no_folder() -> Result<(), Failed> {
    for _ in 0..2 {
        expect(!compilation().load_from(None)?.log.is_empty(), "code came without compiling")?;
    }
    Ok(())
}

fn threads_race() -> Result<(), Failed> {
    let folder = folder()?;
    let folder = folder.path();
    let codes = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(|| compilation().load_from(Some(folder)))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked")).collect::<Result<Vec<_>, _>>()
    })?;
    let codes = codes.into_iter().collect::<Result<Vec<_>, _>>()?;
    expect(codes.iter().all(|code| code.cubin == codes[0].cubin), "the threads got different code")?;
    only_file(folder)?;
    expect(compilation().load_from(Some(folder))?.log.is_empty(), "the threads left no whole file")
}

/// Processes that start at the same time on a damaged file, and one that reads all the while.
fn processes_race() -> Result<(), Failed> {
    let folder = folder()?;
    let folder = folder.path();
    let code = compilation().load_from(Some(folder))?;
    std::fs::write(only_file(folder)?, "damaged")?;
    let mut children = Vec::new();
    for _ in 0..6 {
        children.push(child(folder, None)?.stdout(std::process::Stdio::piped()).spawn()?);
    }
    let expected = format!("ok: {} bytes", code.cubin.len());
    for _ in 0..20 {
        expect(compilation().load_from(Some(folder))?.cubin == code.cubin, "a load between others gave other code")?;
    }
    for child in children {
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        expect(output.status.success() && text.starts_with(&expected), &format!("a child: {} {text}", output.status))?;
    }
    only_file(folder)?;
    expect(said(&mut child(folder, None)?)? == format!("{expected}, cached"), "the processes left no whole file")
}

fn own_files() -> Result<(), Failed> {
    let folder = folder()?;
    let folder = folder.path();
    let warp = |values, general| Variant::CrossEntropy { dtype: DType::F32, regime: Regime::Warp, values, general };
    let compilations = [
        Compilation::new(Variant::Tally, 90),
        Compilation::new(Variant::Tally, 80),
        Compilation::new(warp(4, true), 90),
        Compilation::new(warp(4, false), 90),
        Compilation::new(warp(8, true), 90),
    ];
    let first = compilations.iter().map(|one| one.load_from(Some(folder))).collect::<Result<Vec<_>, _>>()?;
    expect(first.iter().all(|code| !code.log.is_empty()), "a compilation took another's file")?;
    expect(files(folder)?.len() == compilations.len(), "compilations share a file")?;
    for (compilation, first) in compilations.iter().zip(first) {
        let second = compilation.load_from(Some(folder))?;
        expect(second.log.is_empty() && second.cubin == first.cubin, "a file holds another compilation's code")?;
    }
    Ok(())
}

fn unknown_architectures() -> Result<(), Failed> {
    let folder = folder()?;
    let folder = folder.path();
    for unknown in [61, 999] {
        match Compilation::new(Variant::Tally, unknown).load_from(Some(folder)) {
            Err(Error::Architecture { architecture, compiler, known }) if architecture == unknown => {
                expect(compiler.starts_with("NVRTC ") && known.contains("sm_90"), &format!("{compiler}: {known}"))?;
            }
            // Compilers up to CUDA 12 know sm_61.
            Ok(_) if unknown == 61 && compiler_version()?.0 < 13 => {}
            other => return Err(format!("sm_{unknown}: {:?}", other.map(|code| code.cubin.len())).into()),
        }
    }
    Ok(())
}

fn cached_without_compiler() -> Result<(), Failed> {
    let folder = folder()?;
    let folder = folder.path();
    let code = compilation().load_from(Some(folder))?;
    let found = said(&mut child(folder, Some("/nowhere"))?)?;
    expect(found == format!("ok: {} bytes, cached", code.cubin.len()), &found)
}

/// A library that is not there, or is none, is an error that names it; nothing panics and nothing is left behind.
fn without_nvrtc() -> Result<(), Failed> {
    let folder = folder()?;
    let folder = folder.path();
    let text = folder.join("libnvrtc.so.13");
    std::fs::write(&text, "no library")?;
    let cache = folder.join("cache");
    let paths = [Path::new("/nowhere"), folder, &text];
    for path in paths {
        let path = path.to_str().ok_or("the folder's name is no text")?;
        let found = said(&mut child(&cache, Some(path))?)?;
        expect(found.starts_with("CudaUnavailable(") && found.contains(NVRTC), &format!("{path:?}: {found}"))?;
    }
    expect(!cache.exists(), "the cache was made though there was nothing to keep")
}
