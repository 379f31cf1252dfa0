//! Compiles the runtime, and every variant of every kernel from its source as it is, each in a namespace of its own.
//!
//! `EMULATED_KERNELS` names another folder of kernel sources: mutated ones, say.

use logit_perturb::kernel::Variant;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Stdio, exit};

const RUNTIME: [&str; 5] = ["fiber", "machine", "primitives", "shared_memory", "traffic"];

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    println!("cargo::rerun-if-env-changed=EMULATED_KERNELS");
    let kernels = env::var_os("EMULATED_KERNELS").map_or_else(|| here.join("../../kernels"), PathBuf::from);
    let kernels = kernels.canonicalize().unwrap_or_else(|error| fail(&format!("{}: {error}", kernels.display())));
    let (cpp, toys) = (here.join("cpp"), here.join("tests/toys.cu"));
    for path in [&kernels, &cpp, &toys] {
        println!("cargo::rerun-if-changed={}", path.display());
    }

    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).debug(false).warnings(true).extra_warnings(true);
    // Kernels look at the same bytes as different types. Without contraction results are the same on every host.
    build.flag("-fno-strict-aliasing").flag("-ffp-contract=off");
    build.define("EMULATED", None).include(&kernels).include(&cpp);
    build.flag(format!("-fmacro-prefix-map={}=kernels", kernels.display()));
    build.flag(format!("-fmacro-prefix-map={}=tests/emulator", here.display()));
    require_compiler(&build);

    let sources = out.join("sources");
    write_sources(&sources, &kernels, &toys).unwrap_or_else(|error| fail(&format!("{}: {error}", sources.display())));
    println!("cargo::rustc-env=EMULATOR_GENERATED={}", sources.display());
    let mut generated: Vec<_> = fs::read_dir(&sources)
        .expect("it was just written")
        .map(|entry| entry.expect("it was just written").path())
        .collect();
    generated.sort();
    build.files(generated).files(RUNTIME.map(|name| cpp.join(name).with_extension("cpp")));
    build.compile("logit_perturb_emulator");
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1)
}

fn require_compiler(build: &cc::Build) {
    let works = build.try_get_compiler().is_ok_and(|compiler| {
        let mut command = compiler.to_command();
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    });
    if !works {
        fail(
            "the kernel emulator needs a C++17 compiler, GCC or Clang: install one (g++ on Debian, gcc-c++ on Fedora) or \
             name it in CXX",
        );
    }
}

/// One file a variant, one for the toy kernels that the emulator's own tests run, and the table of all entries.
fn write_sources(folder: &Path, kernels: &Path, toys: &Path) -> std::io::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    let mut entries = Vec::new();
    for variant in Variant::all() {
        let name = variant.name();
        let defines = variant.defines().into_iter().fold(String::new(), |mut text, (name, value)| {
            let _ = writeln!(text, "#define {name} {value}");
            text
        });
        let source = unit(&kernels.join(variant.source()), &name, &format!("emulated_{name}"), &defines);
        fs::write(folder.join(format!("{name}.cpp")), source)?;
        entries.push(name);
    }
    fs::write(folder.join("toys.cpp"), unit(toys, "toys", "emulated_toy_##name", ""))?;
    for line in fs::read_to_string(toys)?.lines() {
        if let Some(name) = line.strip_prefix("KERNEL(").and_then(|rest| rest.split(',').next()) {
            entries.push(format!("toy_{name}"));
        }
    }
    fs::write(folder.join("table.cpp"), table(&entries))
}

/// A source file as a translation unit. Standard headers come before the namespace opens.
fn unit(source: &Path, namespace: &str, entry: &str, defines: &str) -> String {
    format!(
        "#include \"runtime.hpp\"\n#define EMULATED_ENTRY(name) {entry}\n{defines}\
         namespace emulated_{namespace} {{\n#include \"{}\"\n}}\n",
        source.display()
    )
}

fn table(entries: &[String]) -> String {
    let mut text = "#include \"launch.hpp\"\n#include <cstring>\n\nextern \"C\" {\n".to_owned();
    for name in entries {
        let _ = writeln!(
            text,
            "void emulated_{name}(const void* args);\nextern const unsigned emulated_{name}_args_bytes;"
        );
    }
    text.push_str("}\n\nstatic const EmulatorKernel kernels[] = {\n");
    for name in entries {
        let _ = writeln!(text, "    {{\"{name}\", emulated_{name}, &emulated_{name}_args_bytes}},");
    }
    text.push_str(
        "};\n
extern \"C\" const EmulatorKernel* emulator_kernel(const char* name, size_t length) {
    for (const EmulatorKernel& kernel : kernels) {
        if (std::strlen(kernel.name) == length && std::memcmp(kernel.name, name, length) == 0) return &kernel;
    }
    return nullptr;
}
",
    );
    text
}
