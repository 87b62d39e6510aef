//! Prints where the control plane's programs and helm are, one path a line, after building what is missing.

use std::process::ExitCode;

fn main() -> ExitCode {
    let found = kit::assets::find().and_then(|assets| Ok((assets, kit::assets::helm()?)));
    match found {
        Ok((assets, helm)) => {
            // The directory when one holds them all, as it does unless the environment says otherwise.
            let directory = assets.etcd.parent().unwrap_or(&assets.etcd);
            println!("{}", directory.display());
            println!("{}", helm.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
