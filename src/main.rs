//! The `shipbell` binary.

fn main() {
    for (_, crd) in shipbell::api::definitions() {
        println!("{}", crd.spec.names.kind);
    }
}
