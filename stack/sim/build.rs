//! Tells tests whether the compiler optimises: `cfg(optimised)`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(optimised)");
    if std::env::var("OPT_LEVEL").is_ok_and(|level| level != "0" && level != "1") {
        println!("cargo::rustc-cfg=optimised");
    }
}
