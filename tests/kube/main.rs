//! Prints where the control plane's programs are, after building what is missing; with `--helm`, where helm and
//! what judges the chart are too, one path a line.

use std::{env, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let args: Vec<_> = env::args().skip(1).collect();
    let helm = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--helm"] => true,
        _ => {
            eprintln!("kube-assets: there is no argument but --helm, not {args:?}");
            return ExitCode::from(2);
        }
    };
    match find(helm) {
        Ok(paths) => {
            for path in paths {
                println!("{}", path.display());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn find(helm: bool) -> anyhow::Result<Vec<PathBuf>> {
    let etcd = kube_assets::find()?.etcd;
    // The directory when one holds them all, as it does unless the environment says otherwise.
    let mut paths = vec![etcd.parent().unwrap_or(&etcd).to_owned()];
    if helm {
        paths.push(kube_assets::helm()?);
        paths.push(kube_assets::helm_unittest()?);
        paths.push(kube_assets::kubeconform()?);
        paths.push(kube_assets::promql()?);
        paths.push(kube_assets::oldest_openapi()?);
    }
    Ok(paths)
}
