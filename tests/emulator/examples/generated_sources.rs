//! Prints where the build left the kernels as C++ files; `scripts/sanitize.sh` compiles them again, with sanitizers.

fn main() {
    println!("{}", logit_perturb_emulator::GENERATED_SOURCES);
}
